"""Expected failures: what went wrong, and what to do about it."""

# What a failure is called where it steers something.
DISK_FULL, READ_ONLY = "disk full", "read-only"


class Failure(Exception):
    """A foreseeable failure. Its text says what was tried and what went wrong.

    hint: what the user can do about it; may be empty. brief: two words for the summary where they tell a lot, such
    as "disk full"; mostly empty.
    """

    def __init__(self, message: str, hint: str = "", brief: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.brief = brief

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(Failure):
    """The command line asks for something that makes no sense."""


class MissingProgram(Failure):
    """A program that is needed on this machine is not installed."""


class Absent(Failure):
    """A destination is not there: its disk is not plugged in, or its host does not answer."""


class Declined(Failure):
    """A machine that keeps backups does not delete them for others: it does so by itself."""


class LockHeld(Failure):
    """Another run works on the same snapshot folder."""


class Interrupted(BaseException):
    """A signal asks the program to end. Not an Exception, so that no handler of failures swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
