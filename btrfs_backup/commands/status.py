"""What is there: looked up, and nothing changed. Needs no lock."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from btrfs_backup.commands.outset import enlist, open_source
from btrfs_backup.commands.visit import Visit
from btrfs_backup.errors import Failure, UsageError
from btrfs_backup.model import inventory, location, retention
from btrfs_backup.model import records as transfers
from btrfs_backup.model import survey as status
from btrfs_backup.model.location import Location
from btrfs_backup.model.plan import Snapshots
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.survey import View
from btrfs_backup.report.outcome import Report, Survey
from btrfs_backup.system.folder import Shell
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.statefile import StateFiles

log = logging.getLogger(__name__)


def look_around(settings: Settings, survey: Survey, clock: Callable[[], datetime] = datetime.now) -> None:
    """Write down in SURVEY what is where. Raises Failure when the source or its snapshots cannot be looked at."""
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        source, standing = open_source(settings, hosts)
        records = StateFiles(source.host, source.folder.path).records
        held = inventory.snapshots(source.folder.look(settings.naming, standing, names_suffice=True))
        settings = _with_known_destinations(settings, records)
        if settings.max_age is not None and not settings.destinations:
            raise Failure("'--max-age' has no backup to judge: no destination is on record", "Name the destinations.")
        report = Report(survey.source)
        visits = enlist(settings, hosts, records, report)
        survey.destinations = report.destinations
        for each in visits:
            _look(each, settings, held.complete, records)
        views = [View(each.identity, each.holdings, each.target, not isinstance(each.place, Shell)) for each in visits]
        protected = transfers.reasons(records)
        verdict = retention.decide(settings.keep_snapshots, settings.naming, held.complete, protected)
        kept = {each.name: each.because for each in verdict.kept}
        survey.rows = status.rows(settings.naming, held.complete, views, records, kept)
        now = clock()
        survey.places = [status.place(view, settings.naming, records, now, settings.max_age) for view in views]


def _with_known_destinations(settings: Settings, records: Records) -> Settings:
    """Those that the state files know, when none were named."""
    if settings.destinations:
        return settings
    known = transfers.known_destinations(records, settings.naming)
    return replace(settings, destinations=tuple(each for text in known for each in _parsed(text)))


def _parsed(text: str) -> list[Location]:
    try:
        return [location.parse(text, "/")]
    except UsageError as error:
        log.warning("the records name a destination that is none: %s", error.message)
        return []


def _look(each: Visit, settings: Settings, snapshots: Snapshots, records: Records) -> None:
    try:
        each.look(settings, snapshots, records)
    except Failure as failure:
        each.give_up(failure, settings)
