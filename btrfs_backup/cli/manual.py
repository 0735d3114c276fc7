"""The manual: chapters in reStructuredText, which are part of the package."""

# In the order in which they are listed.
CHAPTERS = (
    "tour",
    "restore",
    "failures",
    "files",
    "destinations",
    "slow",
    "encrypted",
    "status",
    "timers",
    "json",
    "verify",
    "copy",
    "find",
    "diff",
    "server",
    "security",
    "speed",
    "migration",
    "peers",
)


CONTENTS = "contents"


def chapter(name: str) -> str:
    """The text of the chapter NAME; its first line is its title."""
    from importlib.resources import files

    return (files("btrfs_backup") / "manual" / f"{name}.rst").read_text(encoding="utf-8")


def contents() -> str:
    """The list of chapters with their titles."""
    width = max(map(len, CHAPTERS))
    chapters = [f"  {name:{width}}  {chapter(name).partition(chr(10))[0]}" for name in CHAPTERS]
    return "\n".join(["The manual has these chapters; 'btrfs-backup --manual CHAPTER' shows one:", "", *chapters])


def in_man_page() -> dict[str, str]:
    """The chapters that are sections of the man page, by their titles there."""
    return {"FILES": chapter("files"), "RESTORE": chapter("restore"), "JSON": chapter("json")}


def show(name: str) -> None:
    """Print a chapter, or CONTENTS: on a terminal by way of $PAGER."""
    import pydoc
    import sys

    from btrfs_backup.report import terminal

    text = contents() if name == CONTENTS else chapter(name).removesuffix("\n")
    if sys.stdout.isatty():
        pydoc.pager(text)
    else:
        terminal.line(text)
