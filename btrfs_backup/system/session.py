"""A shell on another machine that runs one command after the other, and the answers that come back from there.

A request is a line for a POSIX shell. Many can be sent before the first is answered, so that together they cost one
round trip. A line that has not arrived as a whole is not run.
"""

import math
import os
import re
import select
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from btrfs_backup.system import process, signals
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.process import OUTPUT_KEPT, STDERR_KEPT, Children, Command, TooMuch

_READ = 64 * 1024
_MOST_WORDS = 1 << 20  # bytes that may come before the shell begins

# Runs what it reads, line by line, each of the word $1, a number and a request. It tells behind each that it has ended,
# with that word, its number and its status; once before the first. A newline in an argument comes as $n.
_SCRIPT = (
    r"n=$(printf '\n.'); n=${n%.}; "
    r"""printf '\n%s 0 0\n' "$1"; printf '\n%s 0 0\n' "$1" >&2; """
    r"""while IFS= read -r r; do case $r in "$1 "*) r=${r#* }; i=${r%% *}; eval "${r#* }" </dev/null; s=$?; """
    r"""printf '\n%s %s %s\n' "$1" "$i" "$s"; printf '\n%s %s %s\n' "$1" "$i" "$s" >&2 ;; esac; done"""
)
_NEWLINE = "'\"$n\"'"  # behind and before a single quote: `ssh.quote` has newlines in these, and nothing else


def shell(word: str) -> Argv:
    """What runs requests. WORD: 32 hexadecimal digits, which no output holds by chance."""
    return ("sh", "-c", _SCRIPT, "sh", word)


def word_of(argv: Argv) -> str | None:
    """The word that `shell` made ARGV of; None when it did not."""
    word = argv[-1] if argv else ""
    return word if argv == shell(word) and re.fullmatch("[0-9a-f]{32}", word) else None


def encode(word: str, number: int, line: str) -> bytes:
    """The request to run LINE, as it is sent."""
    return os.fsencode(f"{word} {number} {line.replace(chr(10), _NEWLINE)}\n")


def decode(word: str, request: bytes) -> tuple[int, str] | None:
    """The number and the line that `encode` made REQUEST of, which has no newline at its end; None if it did not."""
    match = re.fullmatch(rb"%s (\d{1,18}) (.*)" % word.encode(), request, re.DOTALL)
    return (int(match[1]), os.fsdecode(match[2]).replace(_NEWLINE, "\n")) if match else None


def mark(word: str, number: int, status: int) -> bytes:
    """What comes behind the output, and behind the messages, of a request."""
    return b"\n%s %d %d\n" % (word.encode(), number, status)


@dataclass(frozen=True)
class Answer:
    """The end of a request. messages: what it printed on stderr, the last 32 KiB at most."""

    status: int
    stdout: bytes
    messages: str


class _Heard:
    """The pieces that come out of a pipe, each ended by a mark, by their numbers, with the status of each.

    rest: what has come behind the last one.
    """

    def __init__(self, reader: int, word: str) -> None:
        self.reader = reader
        self.pieces: dict[int, tuple[int, bytes]] = {}
        self.rest = bytearray()
        self.open = True
        self._mark = re.compile(rb"\n%s (\d{1,18}) (\d{1,3})\n" % word.encode())
        self._longest = len(mark(word, 10**18, 999))

    def read(self) -> list[int]:
        """Take in what is there; the numbers of those that it ends."""
        try:
            data = os.read(self.reader, _READ)
        except BlockingIOError:
            return []
        self.open = bool(data)
        start, ended = max(0, len(self.rest) - self._longest), []
        self.rest += data
        while found := self._mark.search(self.rest, start):
            ended.append(int(found[1]))
            self.pieces[ended[-1]] = int(found[2]), bytes(self.rest[: found.start()])
            del self.rest[: found.end()]
            start = 0
        return ended


class Session:
    """A shell on another machine, and the COMMAND here that leads to it: it gets what `shell(word)` makes there.

    SCOPE ends it. Raises Failure when the command cannot be started.
    """

    def __init__(self, command: Command, word: str, scope: ExitStack) -> None:
        children = scope.enter_context(Children())
        with process.lacking("cannot talk to another machine"), ExitStack() as theirs:
            stdin, self._writer = os.pipe()
            theirs.callback(os.close, stdin)
            scope.callback(os.close, self._writer)
            heard = []
            for _ in range(2):
                reader, writer = os.pipe()
                theirs.callback(os.close, writer)
                scope.callback(os.close, reader)
                os.set_blocking(reader, False)
                heard.append((writer, _Heard(reader, word)))
            os.set_blocking(self._writer, False)
            (stdout, self._outputs), (stderr, self._messages) = heard
            self.child = children.start(command, stdin, stdout, tied=True, stderr=stderr)
        self._word = word
        self._unsent = bytearray()
        self._sent = 0
        # What has been sent and not answered, in this order, by the numbers of the requests as they were sent: the
        # number by which the answer is asked for, 0 when nobody asks, and the line.
        self._waiting: dict[int, tuple[int, str]] = {}
        self._answers: dict[int, int] = {}  # as what they were sent in the end

    def begun(self, until: float) -> bool:
        """Whether the shell runs, waiting UNTIL then at most (time.monotonic()). Raises Interrupted."""
        left = math.inf
        # What has come while others were listened to counts, too.
        while not self._has(0) and self._open and left > 0 and self._rest <= _MOST_WORDS:
            left = until - time.monotonic()
            self._move(max(0.0, left))
        return self._has(0)

    def ask(self, line: str) -> int:
        """Send the request to run LINE; its number."""
        self._send(self._sent + 1, line)
        self._write()
        return self._sent

    def answer(self, number: int, title: str) -> Answer | None:
        """That to the request NUMBER, which messages call TITLE; None when the session ended before.

        Raises Interrupted, TooMuch.
        """
        while not self._has(number):
            if not self._open:
                return None
            if self._rest > OUTPUT_KEPT:
                self.child.signal(signal.SIGKILL)
                raise TooMuch(f"'{title}' printed")
            self._move(math.inf)
        at = self._answers[number]
        status, stdout = self._outputs.pieces.pop(at)
        words = self._messages.pieces.pop(at)[1][-STDERR_KEPT:]
        return Answer(status, stdout, words.decode(errors="replace"))

    def _send(self, number: int, line: str) -> None:
        self._sent += 1
        self._waiting[self._sent] = number, line
        self._unsent += encode(self._word, self._sent, line)

    def _ended(self, sent: int) -> None:
        """The request that was SENT as that has ended, and so have those before it that have arrived.

        What a login shell runs at its start may read what was sent before the shell runs: that is sent again. A last
        request tells whether it has.
        """
        if not sent and self._waiting:
            self._send(0, ":")
        number, _ = self._waiting.pop(sent, (0, ""))
        if number:
            self._answers[number] = sent
        lost = [each for each in self._waiting if each < sent]
        for each in lost:
            self._send(*self._waiting.pop(each))

    @property
    def last_words(self) -> str:
        """What came behind the last answer, of the shell or of the command here."""
        while self._messages.open and signals.wait([self._messages.reader], 0):
            self._messages.read()
        return self._messages.rest[-STDERR_KEPT:].decode(errors="replace")

    def _has(self, number: int) -> bool:
        at = self._answers.get(number, 0 if not number else -1)
        return at in self._outputs.pieces and at in self._messages.pieces

    @property
    def _open(self) -> bool:
        return self._outputs.open and self._messages.open

    @property
    def _rest(self) -> int:
        """Bytes that belong to no answer yet."""
        return max(len(self._outputs.rest), len(self._messages.rest))

    def _move(self, seconds: float) -> None:
        """Wait until something comes or can be sent, and take and send it. Raises Interrupted."""
        signals.check()
        poll = select.poll()
        for each in (self._outputs, self._messages):
            if each.open:
                poll.register(each.reader, select.POLLIN)
        if self._unsent:
            poll.register(self._writer, select.POLLOUT)
        for waker in signals.waker():
            poll.register(waker, select.POLLIN)
        poll.poll(None if seconds == math.inf else seconds * 1000)
        signals.check()
        for number in self._outputs.read() if self._outputs.open else ():
            self._ended(number)
        if self._messages.open:
            self._messages.read()
        self._write()

    def _write(self) -> None:
        with suppress(BlockingIOError):
            while self._unsent:
                try:
                    del self._unsent[: os.write(self._writer, self._unsent)]
                except BrokenPipeError:
                    self._unsent.clear()
