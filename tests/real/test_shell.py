"""Streams into shell commands, and back from what they stored."""

import signal
from pathlib import Path

from tests.real.machine import (
    COMPLETED,
    FAILING_SEND,
    RealTest,
    Result,
    children_of,
    is_running,
    names,
    on_record,
    random_file,
    sh,
    show,
    wait_for,
    with_program,
)


class ShellTest(RealTest):
    def setUp(self) -> None:
        super().setUp()
        self.store = self.folder / "my store"
        self.store.mkdir()
        self.into_files = f"shell://cat > '{self.store}'/$BTRFS_BACKUP_SNAPSHOT"

    def restore(self, disk: Path) -> None:
        """As the README says: every stored stream, in the order of names."""
        for stream in names(self.store):
            sh("btrfs", "receive", "-f", self.store / stream, disk)


class Delivery(ShellTest):
    def test_only_what_is_newer_and_back_again(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        first = self.backup(source, self.into_files)
        taken = names(source / "snapshot")
        self.assertIn(f"sending {taken[0]} in full", first.err)
        self.assertIn(f"sending {taken[1]} on top of {taken[0]}", first.err)
        self.assertEqual(on_record(source / "snapshot", COMPLETED), {self.into_files: {"": [taken[1]]}})
        self.assertEqual(on_record(source / "snapshot"), {})
        random_file(source / "large", 3)
        second = self.backup("-N", "1", "-n", "1", source, self.into_files)
        self.assertIn("sent 1 snapshot (1 incremental", second.err)
        third = self.backup("-S", source, self.into_files)
        self.assertIn("sent nothing", third.err)
        self.assertEqual(len(names(self.store)), 3)
        self.restore(usb)
        [last] = names(source / "snapshot")
        self.assert_same(usb / last, source / "snapshot" / last)
        self.assertEqual((len(names(usb)), last), (3, names(usb)[-1]))

    def test_never_incremental(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for _ in range(2):
            self.backup("-I", source, self.into_files)
        sh("btrfs", "receive", "-f", self.store / names(self.store)[1], usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot")[1:])
        self.assertEqual(len(names(self.store)), 2)

    def test_last_delivered_is_gone(self) -> None:
        """Then the next one is sent in full."""
        source = self.source()
        self.backup(source, self.into_files)
        sh("btrfs", "subvolume", "delete", source / "snapshot" / names(self.store)[0])
        result = self.backup(source, self.into_files)
        self.assertIn("in full", result.err)

    def test_last_delivered_is_kept(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, self.into_files)
        delivered = names(source / "snapshot")[0]
        for _ in range(2):
            self.backup("-N", "1", source, usb)
        self.assertEqual(names(source / "snapshot")[0], delivered)
        result = self.backup(source, self.into_files)
        self.assertIn(f"on top of {delivered}", result.err)
        self.backup("-S", "-T", "--remove-locks", source, self.into_files)
        self.assertNotIn(self.into_files, on_record(source / "snapshot", COMPLETED))

    def test_what_the_command_is_told(self) -> None:
        source = self.source()
        seen = self.folder / "seen"
        shell = f"shell://env | grep ^BTRFS_BACKUP_ | sort >> {seen}; cat > /dev/null"
        for _ in range(2):
            self.backup("-p", "a b$-", source, shell)
        old, new = names(source / "snapshot")
        self.assertEqual(
            seen.read_text().splitlines(),
            [
                line
                for parent, snapshot in (("", old), (old, new))
                for line in (
                    f"BTRFS_BACKUP_PARENT={parent}",
                    "BTRFS_BACKUP_PREFIX=a b$-",
                    f"BTRFS_BACKUP_SNAPSHOT={snapshot}",
                    f"BTRFS_BACKUP_SOURCE={source}",
                )
            ],
        )

    def test_it_keeps_its_language(self) -> None:
        """The locale is that of the caller, since the command is the user's own."""
        source = self.source()
        self.backup(source, f"shell://echo $LC_ALL > {self.folder}/seen; cat > /dev/null", env={"LC_ALL": "C.UTF-8"})
        self.assertEqual((self.folder / "seen").read_text(), "C.UTF-8\n")


class Failures(ShellTest):
    def test_a_second_stream_over_the_first(self) -> None:
        """As when the variable in the name was replaced by the shell that it was typed in."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        first = names(source / "snapshot")[0]
        shell = f"shell://cat > '{self.store}'/.btrfs"
        for status, dry in ((10, ["--dry-run"]), (10, [])):
            result = self.backup(*dry, source, shell, status=status)
            self.assertIn(f"warning: {shell}: each stream overwrites the one before", result.err)
            self.assertRegex(result.err, rf"error: shell://.*: \S+ is not sent: it would overwrite {first}, .*\n  Put")
        sh("btrfs", "receive", "-f", self.store / ".btrfs", usb)
        self.assertEqual(names(usb), [first])
        # The newest one, in full, is a backup by itself.
        self.assertEqual(self.backup("-q", "-I", "-S", source, shell).err, "")
        sh("btrfs", "receive", "-f", self.store / ".btrfs", usb)
        self.assertEqual(names(usb), names(source / "snapshot"))

    def fails(self, command: str, *words: str, megabytes: int = 0) -> Result:
        """It fails alone, is recorded, and is sent again by the next run."""
        source, usb = self.source(), self.disk("usb").path
        if megabytes:
            random_file(source / "large", megabytes)
        switch = self.folder / "switch"
        switch.write_text(command)
        shell = f"shell://. {switch}"
        result = self.backup(source, shell, usb, status=10)
        for word in words:
            self.assertIn(word, result.err)
        [name] = names(source / "snapshot")
        self.assert_complete(usb, source / "snapshot", [name])
        self.assertEqual(on_record(source / "snapshot"), {name: {"locks": [shell]}})
        self.assertNotIn(shell, on_record(source / "snapshot", COMPLETED))
        self.assertIn(f"{shell}: FAILED, sent nothing, 1 outstanding", result.err)
        switch.write_text(self.into_files.removeprefix("shell://"))
        self.backup("-S", source, shell, usb)
        self.assertEqual(on_record(source / "snapshot"), {})
        self.assertEqual(on_record(source / "snapshot", COMPLETED)[shell], {"": [name]})  # type: ignore[index]
        self.restore(self.disk("restored").path)
        self.assert_same(self.folder / "restored" / name, source / "snapshot" / name)
        return result

    def test_command_that_fails(self) -> None:
        self.fails("cat > /dev/null; echo 'no more tape' >&2; exit 7", "the shell command: no more tape")

    def test_command_that_does_not_exist(self) -> None:
        self.fails(
            "no-such-command-here",
            "no-such-command-here: not found\n  Is the program that it names installed, and in PATH?",
        )

    def test_command_that_reads_nothing_of_a_small_stream(self) -> None:
        """All of the stream fits into the pipe, so that no writer notices."""
        self.fails("true", "ended before it had read the whole stream", "read its standard input to the end")

    def test_command_that_reads_nothing_late(self) -> None:
        self.fails("sleep 0.5", "ended before it had read the whole stream")

    def test_command_that_reads_nothing_of_a_large_stream(self) -> None:
        self.fails("true", "ended before it had read the whole stream", megabytes=20)

    def test_command_that_stops_reading(self) -> None:
        self.fails("head -c 3000000 > /dev/null", "ended before it had read the whole stream", megabytes=20)

    def test_command_that_closes_its_input_and_goes_on(self) -> None:
        self.fails("exec < /dev/null; sleep 0.5", "ended before it had read the whole stream", megabytes=20)

    def test_all_of_a_pipeline_ends_with_the_run(self) -> None:
        """It does not read, and holds what would be read."""
        source = self.source()
        random_file(source / "large", 20)
        command = self.start(source, f"shell://cat | sh -c 'echo > {self.folder}/begun; exec sleep 1000'")
        wait_for((self.folder / "begun").exists)
        [shell] = [child for child in children_of(command.pid) if children_of(child)]
        members = children_of(shell)
        command.send_signal(signal.SIGTERM)
        _, err = command.communicate(timeout=20)
        self.assertEqual(command.returncode, 128 + signal.SIGTERM, err)
        self.assertEqual(len(members), 2)
        wait_for(lambda: not any(is_running(pid) for pid in members))

    def test_broken_streams_are_noticed_on_their_way(self) -> None:
        """Of a `btrfs send` that exits with 0; the command stores it and does not mind."""
        source = self.source()
        random_file(source / "large", 2)
        for number, (spoil, words) in enumerate(
            (
                ("head -c 100000", "it breaks off before its end"),
                ("head -c 8", "it breaks off before its end"),
                ("head -c 0", "it breaks off before its end"),
                ("sed 1s/btrfs-stream/btrfs-strXam/", "does not begin like the output of 'btrfs send'"),
                ("(head -c 500000; cat) | tee -a /dev/null | (head -c 400000; head -c 1 > /dev/null; cat)", "broken"),
                ("(cat; echo more)", "not of its format"),
                ('(head -c 600000; "$REAL" send -q "$@")', "broken"),
            )
        ):
            with self.subTest(spoil):
                script = f'case "$1" in send) shift; "$REAL" send -q "$@" | {spoil};; *) exec "$REAL" "$@";; esac'
                path = with_program(self.folder / f"tools{number}", "btrfs", script)
                result = self.backup(source, self.into_files, status=10, env=path)
                self.assertIn("the stream is broken: ", result.err)
                self.assertIn(words, result.err)
        result = self.backup(source, self.into_files)
        self.assertEqual(on_record(source / "snapshot"), {})
        usb = self.disk("usb").path
        self.restore(usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_sender_that_fails_is_the_one_to_blame(self) -> None:
        source, path = self.source(), with_program(self.folder / "tools", "btrfs", FAILING_SEND)
        result = self.backup(source, self.into_files, self.disk("usb").path, status=10, env=path)
        self.assertEqual(result.err.count("btrfs send: ERROR: Input/output error"), 2)
        self.assertNotIn("the stream is broken", result.err)
        self.assertEqual(names(self.folder / "usb"), [])

    def test_bad_streams_do_not_disturb_show(self) -> None:
        """What is delivered twice is the same snapshot: its UUID tells."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, self.into_files)
        self.restore(usb)
        [name] = names(usb)
        self.assertEqual(show(usb / name)["Received UUID"], show(source / "snapshot" / name)["UUID"])
