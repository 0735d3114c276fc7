"""The catalogue of messages: each error and warning of the program is provoked by a test, and says what to do.

The messages are read off the source. One counts as provoked when a test expects words of it that are in no other
message, by `assertIn("does not exist", result.err)` for example, in a table, or in a regular expression. So whoever
adds a message writes a test of it as usual, and has nothing to do here.
"""

import ast
import re
import unittest
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
GAP = "…"  # what is filled in when the message is made
ENOUGH = 16  # characters in a row by which a message is recognised

# What takes a text for the user, at which place among its arguments, and whether a hint has to follow. Where none has
# to, the text is a part of a message that somebody else completes.
TAKERS = {
    "Failure": (0, True),
    "UsageError": (0, True),
    "MissingProgram": (0, True),
    "LockHeld": (0, True),
    "CommandFailed": (1, False),
    "_broke": (1, False),
    "ValueError": (0, False),
    "ArgumentTypeError": (0, False),
    "BrokenStream": (0, False),
}

# Messages that nobody can get to see, each with the reason.
UNSEEN = {
    "cannot ask for the version of btrfs-progs": "it is asked in passing; whatever is wrong is told when it matters",
    "cannot list the subvolumes in '…'": "told to those who debug: the run does not need the list",
}


@dataclass(frozen=True)
class Message:
    """needs_hint: it is whole but for a hint."""

    where: str
    text: str
    hint: str = ""
    needs_hint: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.text!r}"


def template(node: ast.AST) -> str:
    """The text that an expression makes, with GAPs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub("%[sd]", GAP, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    return GAP


def parts_of_texts(module: ast.Module) -> set[ast.AST]:
    """What f-strings are made of."""
    texts = [node for node in ast.walk(module) if isinstance(node, ast.JoinedStr)]
    return {part for text in texts for value in text.values for part in ast.walk(value)}


def messages(source: str, name: str) -> Iterator[Message]:
    """Every message in a module of the product."""
    module = ast.parse(source)
    parts = parts_of_texts(module)
    for node in ast.walk(module):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            yield from taken(node, where)
            if getattr(node.func, "attr", "") == "debug":
                parts.update(node.args)
        # What a command is run for begins the message when it fails.
        elif node not in parts and re.match("cannot (?!be )", template(node)):
            yield Message(where, template(node))


def taken(call: ast.Call, where: str) -> Iterator[Message]:
    """The message that a CALL takes, if it is that of a taker."""
    function = call.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if called in ("warning", "error") and isinstance(function, ast.Attribute) and template(function.value) == GAP:
        logger = getattr(function.value, "id", "")
        if logger == "log" and call.args:
            text, _, hint = template(call.args[0]).partition("\n  ")
            yield Message(where, text, hint)
    place, needs_hint = TAKERS.get(called, (len(call.args), False))
    if place < len(call.args):
        hint = template(call.args[place + 1]) if len(call.args) > place + 1 else ""
        yield Message(where, template(call.args[place]), hint, needs_hint)


@cache
def catalogue() -> tuple[Message, ...]:
    """The messages of the product that have words of their own."""
    found = [
        message
        for path in sorted((TOP / "btrfs_backup").rglob("*.py"))
        for message in messages(path.read_text(encoding="utf-8"), str(path.relative_to(TOP)))
    ]
    return tuple(message for message in found if re.search(r"\w{3}", message.text))


def expectations(source: str) -> Iterator[str]:
    """Every text in a module of tests, but for docstrings and what is expected not to be said."""
    module = ast.parse(source)
    unwanted = parts_of_texts(module)
    for node in ast.walk(module):
        if isinstance(node, ast.Expr):
            unwanted.add(node.value)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("assertNotIn", "assertNotRegex"):
            unwanted.update(node.args)
    for node in ast.walk(module):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node not in unwanted:
            # It may be a regular expression.
            yield re.sub(r"\\(\W)", r"\1", template(node))


@cache
def expected() -> str:
    """All that the tests expect to be said, one text a line."""
    tests = [path for path in (TOP / "tests").rglob("test_*.py") if path != Path(__file__)]
    return "\n".join(text for path in tests for text in expectations(path.read_text(encoding="utf-8")))


def provoked(message: Message, everything: tuple[Message, ...], said: str) -> bool:
    """Whether a line that is SAID holds all of its words, or ENOUGH that are in no other of EVERYTHING.

    A message shares its words with one that begins like it.
    """
    if re.search("[^\n]*".join(map(re.escape, message.text.strip(GAP).split(GAP))), said):
        return True
    own = message.text.rstrip(GAP)
    others = "\n".join(
        other
        for other in (each.text.rstrip(GAP) for each in everything)
        if not other.startswith(own) and not own.startswith(other)
    )
    pieces = [piece for piece in own.split(GAP) if re.search(r"\w{3}", piece)]
    runs = (piece[at : at + ENOUGH] for piece in pieces for at in range(max(1, len(piece) - ENOUGH + 1)))
    return any(run in said and run not in others for run in runs)


class Catalogue(unittest.TestCase):
    def test_every_message_is_provoked(self) -> None:
        self.assertGreater(len(catalogue()), 80)
        for message in catalogue():
            with self.subTest(str(message)):
                if message.text not in UNSEEN:
                    known = provoked(message, catalogue(), expected())
                    self.assertTrue(known, "no test expects words of this message that are in no other one")
        self.assertLessEqual(UNSEEN.keys(), {message.text for message in catalogue()})

    def test_every_message_says_what_to_do(self) -> None:
        for message in catalogue():
            if message.needs_hint:
                with self.subTest(str(message)):
                    self.assertTrue(message.hint, "it needs a hint: what can the user do?")

    def test_form(self) -> None:
        """One line that goes on behind `error: `, and whole sentences below it, two lines at most."""
        for message in catalogue():
            with self.subTest(str(message)):
                self.assertRegex(message.text, r"^(?:[a-z'…]|SOURCE|DEST)[^\n]*[^\n.]$")
                self.assertLess(len(message.text), 200)
                if message.hint.strip(GAP):
                    self.assertRegex(message.hint, r"^[A-Z'…@]")
                    self.assertLessEqual(message.hint.count("\n"), 1)
                    self.assertLess(len(message.hint), 240)

    def test_plain_words(self) -> None:
        """None that only programmers use."""
        jargon = r"\b(?:invalid|illegal|errno|exception|null|stdin|stdout|argv|subprocess|parse|fatal|abort)\b"
        for message in catalogue():
            with self.subTest(str(message)):
                self.assertNotRegex(f"{message.text} {message.hint}", re.compile(jargon, re.IGNORECASE))


class Reading(unittest.TestCase):
    """The catalogue finds what it looks for."""

    SOURCE = '''
raise Failure(f"no {x} for you", "Ask again.")
raise errors.UsageError(f"{each} of {x:>3}")
raise CommandFailed(ended, "cannot do it") from None
log.warning("%s: gone with the %s", x, y)
other.warning("not ours")
host.run(argv, f"cannot touch '{x}'")
def f():
    """cannot be: a docstring"""
print("said")
'''

    def test_messages(self) -> None:
        found = {(each.text, each.hint, each.needs_hint) for each in messages(self.SOURCE, "x.py")}
        self.assertLessEqual(
            {
                ("no … for you", "Ask again.", True),
                ("… of …", "", True),
                ("cannot do it", "", False),
                ("…: gone with the …", "", False),
                ("cannot touch '…'", "", False),
            },
            found,
        )
        self.assertNotIn("not ours", {text for text, _, _ in found})

    def test_expectations(self) -> None:
        source = (
            '"""A docstring."""\nself.assertIn(f"no {x} for", y)\nself.assertNotIn("unsaid", y)\n'
            'self.assertRegex(y, r"gone\\.$")'
        )
        self.assertEqual(set(expectations(source)), {"no … for", "gone.$"})

    def test_recognition(self) -> None:
        first, second, longer = (
            Message("a", text)
            for text in ("cannot read the file '…'", "cannot write the file '…'", "cannot read the file '…': …")
        )
        everything = (first, second, longer)
        table = {
            "cannot read the file '/x'": (True, False, True),
            "x\nerror: cannot write the file": (False, True, False),
            " the file '": (False, False, False),
            "read the f": (False, False, False),
        }
        for said, wanted in table.items():
            with self.subTest(said):
                self.assertEqual(tuple(provoked(each, everything, said) for each in everything), wanted)


if __name__ == "__main__":
    unittest.main()
