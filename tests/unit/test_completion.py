"""What the completion scripts are made of. How the shells use them is seen in tests/real."""

import argparse
import re
import unittest

from btrfs_backup.cli import completion
from btrfs_backup.cli import parser as cli
from btrfs_backup.cli.options import Option, groups


def options() -> list[Option]:
    return [option for _, options in groups(cli.parser()) for option in options]


class Scripts(unittest.TestCase):
    def test_every_shell_can_be_asked_for(self) -> None:
        (option,) = [each for each in options() if "--print-completion" in each.names]
        self.assertEqual(option.choices, tuple(completion.SHELLS))

    def test_every_option_and_choice(self) -> None:
        for shell in completion.SHELLS:
            script = completion.script(cli.parser(), shell)
            for option in options():
                for word in (*option.names, *option.choices):
                    with self.subTest(shell, word=word):
                        spelling = re.sub("^--", "-l ", re.sub("^-(?=.$)", "-s ", word)) if shell == "fish" else word
                        self.assertRegex(script, rf"(?<![\w-]){spelling}(?![\w-])")

    def test_nothing_is_left_to_be_filled_in(self) -> None:
        for shell in completion.SHELLS:
            with self.subTest(shell):
                self.assertNotRegex(completion.script(cli.parser(), shell), r"\{(values|names|specs|lines)\}")

    def test_odd_texts(self) -> None:
        parser = argparse.ArgumentParser(prog="x", add_help=False)
        parser.add_argument("--way", nargs="?", metavar="A:B", choices=("up", "down"), help="it's [so]: a \\ way")
        parser.add_argument("--secret", help=argparse.SUPPRESS)
        table = {
            "bash": ["        --way=) _btrfs_backup_words 'up down' ;;\n"],
            "zsh": ["(--way)--way=-[it'\"'\"'s \\[so\\]\\: a \\\\ way]::A\\:B:(up down)'\n"],
            "fish": ["-l way -f -d 'it'\"'\"'s [so]: a \\ way' -a 'up down'\n"],
        }
        for shell, wanted in table.items():
            script = completion.script(parser, shell)
            for line in wanted:
                with self.subTest(shell):
                    self.assertIn(line, script)
            self.assertNotIn("secret", script)


class OptionList(unittest.TestCase):
    def test_what_is_known_of_each(self) -> None:
        found = {(option.names or (option.value,))[0]: option for option in options()}
        self.assertEqual(found["-f"].names, ("-f", "--snapshot-folder"))
        self.assertEqual({name for name, each in found.items() if each.is_folder}, {"SOURCE", "DEST", "-f"})
        self.assertEqual((found["-q"].value, found["-N"].value), ("", "KEEP"))
        self.assertEqual(found["-v"].value, "LEVEL")
        self.assertEqual({name for name, each in found.items() if each.repeated}, {"DEST", "--ssh-opt"})
        self.assertLessEqual(max(len(each.brief) for each in found.values()), 72)

    def test_groups_are_those_of_the_help(self) -> None:
        titles = re.findall("^([a-z][a-z ]*):$", cli.parser().format_help(), re.MULTILINE)
        self.assertEqual([title for title, _ in groups(cli.parser())], [each for each in titles if each != "examples"])


if __name__ == "__main__":
    unittest.main()
