"""What commands begin with: the source and its snapshot folder, and the destinations."""

from collections.abc import Iterator, Sequence

from btrfs_backup.commands.visit import Visit, fail, visit
from btrfs_backup.errors import Failure, UsageError
from btrfs_backup.model import location
from btrfs_backup.model import records as transfers
from btrfs_backup.model.location import Location, Scheme
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.report.outcome import Report, Tally
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.paths import Standing, examine
from btrfs_backup.system.source import Source
from btrfs_backup.system.statefile import OUTSTANDING


def open_source(settings: Settings, hosts: Hosts) -> tuple[Source, Standing]:
    """The source, checked, and where its snapshot folder stands, which a run may have to make. Raises Failure."""
    host = hosts.at(settings.source)
    source = Source(host, settings.source.path, Folder(host, settings.folder_path))
    if settings.fs_checks:
        source.check(settings.naming)
    folder = source.folder
    standing = examine(folder.host, folder.path)
    if standing.exists and not standing.is_directory:
        raise Failure(f"the snapshot folder '{folder.path}' is not a folder", "Choose another one with '-f'.")
    if not standing.exists and settings.fs_checks:
        source.refuse_backups(settings.naming)
    # Who watches the backups has to hear of a folder that is misspelled or not mounted.
    if not standing.exists and (settings.status or not settings.take_snapshot):
        raise Failure(
            f"the snapshot folder '{folder.path}' does not exist", "Take a snapshot first, or correct the option '-f'."
        )
    if settings.take_snapshot and settings.fs_checks:
        source.check_folder(standing)
    return source, standing


def enlist(settings: Settings, hosts: Hosts, records: Records, report: Report) -> list[Visit]:
    """The destinations that were typed, then those that the records name, if they are wanted."""
    wanted = dict.fromkeys(settings.destinations)
    if settings.locked_dests:
        wanted |= dict.fromkeys(_locked_destinations(settings, records, report))
    tallies = {tally.place: tally for tally in report.destinations}
    visits = [visit(each, hosts, tallies.get(each.identity, Tally(each.identity))) for each in wanted]
    report.destinations = [each.tally for each in visits]
    return visits


def forgotten(settings: Settings, visits: Sequence[Visit], records: Records) -> Records:
    """The records without what they hold of the destinations of VISITS."""
    identities = [each.identity for each in visits]
    return Records(
        transfers.drop(records.outstanding, settings.naming, identities),
        transfers.forget(records.completed, settings.naming, identities),
    )


def _locked_destinations(settings: Settings, records: Records, report: Report) -> Iterator[Location]:
    """What the records name. They are only a file: no command is run because one stands there."""
    path = f"{settings.folder_path}/{OUTSTANDING}"
    for recorded in transfers.locked_destinations(records.outstanding, settings.naming):
        try:
            place = location.parse(recorded, "/")
        except UsageError as error:
            message = f"the records name a destination that is none: {error.message}"
            fail(report.source, Failure(message, f"Correct it with an editor: {path}"))
            continue
        if place.scheme is Scheme.SHELL and place not in settings.destinations:
            message = f"'--locked-dests' runs no shell command that only the records name: {place}"
            hint = "Name it as a DEST if it is yours. Or have it forgotten: name it, with '-S -T --remove-locks'."
            fail(report.source, Failure(message, f"{hint}\n  The records: {path}"))
        elif place.scheme is Scheme.LOCAL and not recorded.startswith("/"):
            message = f"the records name a destination that is none: '{recorded}' is not absolute"
            fail(report.source, Failure(message, f"Correct it with an editor: {path}"))
        else:
            yield place
