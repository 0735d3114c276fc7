"""What breaks in mid-run: killed processes, signals, full disks, broken state files. The next run heals it."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.real.machine import (
    COMPLETED,
    OUTSTANDING,
    RealTest,
    being_received,
    child_running,
    children_of,
    descendants,
    is_readonly,
    is_running,
    kill,
    names,
    on_record,
    random_file,
    sh,
    show,
    stage,
    staged,
    wait_for,
    with_program,
)


class CutOff(RealTest):
    def begin(self, *options: str) -> tuple[Path, Path, "subprocess.Popen[str]"]:
        """A second, large backup that is under way: its subvolume exists at the destination, and receive is stopped."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        random_file(source / "large", 40)
        command = self.start("--rate-limit=5M", *options, source, usb)
        receive = wait_for(lambda: child_running(command.pid, "btrfs", "receive"))
        wait_for(lambda: staged(usb))
        kill(receive, signal.SIGSTOP)
        return source, usb, command

    def check_cut_off(self, source: Path, usb: Path) -> None:
        """There is a part of a backup in a stage, and a record of it and of its parent."""
        [old], [new], [part] = names(usb), being_received(usb), staged(usb)
        self.assertFalse(is_readonly(part))
        self.assertEqual(show(part)["Received UUID"], "-")
        self.check_record(source, usb, old, new)

    def check_record(self, source: Path, usb: Path, old: str, new: str) -> None:
        record = on_record(source / "snapshot")
        self.assertEqual(record, {old: {"parent_locks": [str(usb)]}, new: {"locks": [str(usb)]}})

    def check_healed(self, source: Path, usb: Path, count: int = 3) -> None:
        self.backup("-N", "1", source, usb)
        self.backup("-S", source, usb)
        self.assertEqual(len(names(usb)), count)
        self.assertEqual(sorted(os.listdir(usb)), names(usb))
        last = names(source / "snapshot")
        for name in last:
            self.assert_same(usb / name, source / "snapshot" / name)
        for name in names(usb):
            self.assertTrue(is_readonly(usb / name))
            self.assertNotEqual(show(usb / name)["Received UUID"], "-")
        self.assertEqual(on_record(source / "snapshot"), {})

    def test_everything_killed(self) -> None:
        source, usb, command = self.begin()
        children = children_of(command.pid)
        self.assertEqual(len(children), 2)
        for pid in (command.pid, *children):
            kill(pid)
        command.wait()
        wait_for(lambda: not any(is_running(pid) for pid in children))
        self.check_cut_off(source, usb)
        self.check_healed(source, usb)

    def test_everything_killed_and_the_record_lost(self) -> None:
        source, usb, command = self.begin()
        for pid in (command.pid, *children_of(command.pid)):
            kill(pid)
        command.wait()
        os.unlink(source / "snapshot" / OUTSTANDING)
        self.backup(source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(len(names(usb)), 3)

    def test_children_do_not_outlive_the_command(self) -> None:
        """Otherwise they would go on writing where the next run cleans up."""
        source, usb, command = self.begin()
        children = children_of(command.pid)
        kill(command.pid)
        command.wait()
        wait_for(lambda: not any(is_running(pid) for pid in children), 5)
        self.check_cut_off(source, usb)
        self.check_healed(source, usb)

    def test_what_children_have_started_does_not_outlive_the_command_either(self) -> None:
        """It would go on reading for hours, and the disk could not be unmounted."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        slow = with_program(self.folder / "bin", "sha256sum", "sleep 60 & wait")
        command = self.start("--verify", source, usb, env=slow)
        wait_for(lambda: sum(1 for each in children_of(command.pid) if children_of(each)) == 2)
        started = descendants(command.pid)
        time.sleep(0.5)  # until the run itself knows that they are there
        kill(command.pid)
        command.wait()
        wait_for(lambda: not any(map(is_running, started)), 5)

    def test_nor_does_what_a_shell_command_has_started(self) -> None:
        source = self.source()
        command = self.start(source, f"shell://sleep 60 | cat > {self.folder}/x && touch {self.folder}/done")
        shell = wait_for(lambda: child_running(command.pid, "sh", "-c"))
        started = [shell, *wait_for(lambda: len(both := children_of(shell)) == 2 and both)]
        kill(command.pid)
        command.wait()
        wait_for(lambda: not any(map(is_running, started)), 5)
        self.assertFalse((self.folder / "done").exists())

    def test_a_killed_child_is_named_and_cleared_away(self) -> None:
        for program in ("send", "receive"):
            with self.subTest(program):
                self.setUp()
                source, usb, command = self.begin()
                [old], [new] = names(usb), being_received(usb)
                child = child_running(command.pid, "btrfs", program)
                assert child
                kill(child)
                receive = child_running(command.pid, "btrfs", "receive")
                kill(receive, signal.SIGCONT) if receive else None
                _, err = command.communicate(timeout=20)
                self.assertEqual(command.returncode, 10, err)
                self.assertIn(f"btrfs {program}: it was ended by signal 9", err)
                self.assertIn(f"{usb}: FAILED", err)
                self.assertEqual(os.listdir(usb), [old])
                self.check_record(source, usb, old, new)
                self.check_healed(source, usb)

    def test_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number.name):
                self.setUp()
                source, usb, command = self.begin()
                children = children_of(command.pid)
                command.send_signal(number)
                # SIGTERM waits until a stopped process goes on.
                kill(children[0], signal.SIGCONT)
                _, err = command.communicate(timeout=20)
                self.assertEqual(command.returncode, 128 + number, err)
                self.assertNotIn("Traceback", err)
                self.assertIn(
                    f"error: ended by {number.name}; what has arrived of a large transfer is kept, and the", err
                )
                self.assertRegex(err.splitlines()[-1], f"{usb}: sent nothing, 1 outstanding")
                self.assertFalse([pid for pid in children if Path(f"/proc/{pid}").exists()])
                self.check_cut_off(source, usb)
                self.check_healed(source, usb)

    def test_document_of_what_a_signal_ended(self) -> None:
        _, _, command = self.begin("--json")
        children = children_of(command.pid)
        command.send_signal(signal.SIGTERM)
        kill(children[0], signal.SIGCONT)
        out, _ = command.communicate(timeout=20)
        found = json.loads(out)
        self.assertEqual([each["state"] for each in found["destinations"]], ["interrupted"])
        self.assertIn("ended by SIGTERM; ", found["error"]["message"])
        self.assertEqual(found["exit_status"], 143)

    def test_ignored_hangup_stays_ignored(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 40)
        command = self.start(source, usb, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        wait_for(lambda: child_running(command.pid, "btrfs", "receive"))
        command.send_signal(signal.SIGHUP)
        _, err = command.communicate(timeout=20)
        self.assertEqual(command.returncode, 0, err)


class FullDisk(RealTest):
    def test_one_of_two_destinations_is_full(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        small = self.disk("small", 120)
        self.backup(source, usb, small.path)
        random_file(source / "large", 20)
        filler = small.fill()
        result = self.backup(source, small.path, usb, status=10)
        self.assertIn("No space left", result.err)
        self.assertIn(f"{small.path}: FAILED", result.err)
        old, new = names(source / "snapshot")
        self.assert_complete(usb, source / "snapshot", [old, new])
        self.assertNotIn(new, names(small.path))
        record = on_record(source / "snapshot")
        self.assertEqual(record, {old: {"parent_locks": [str(small.path)]}, new: {"locks": [str(small.path)]}})
        filler.unlink()
        self.backup("-S", source, small.path, usb)
        self.assert_complete(small.path, source / "snapshot", [old, new])
        self.assertEqual(on_record(source / "snapshot"), {})

    def test_a_partial_that_fills_the_disk_gives_way_to_its_resend(self) -> None:
        """The space of the deleted partial has to be free before the transfer begins again."""
        source = self.source()
        random_file(source / "large", 60)
        small = self.disk("small", 150).path
        self.backup(source)
        [name] = names(source / "snapshot")
        part = stage(small, name)
        random_file(part / "half", 50)
        sh("sync", "-f", small)
        self.backup("-S", source, small)
        self.assert_complete(small, source / "snapshot", [name])


class Leftovers(RealTest):
    def test_a_partial_that_is_not_to_be_sent_again_is_deleted(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        self.backup(source)
        oldest = names(source / "snapshot")[0]
        stage(usb, oldest)
        self.backup("-S", "-n", "1", source, usb)
        self.assertEqual(sorted(os.listdir(usb)), names(usb))
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot")[1:])

    def test_a_partial_whose_snapshot_is_gone_is_left_alone_and_named(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        part = stage(usb, "20010101-000000")
        result = self.backup("-n", "1", source, usb)
        self.assertIn("leaving 20010101-000000 alone: it is a transfer that was cut off", result.err)
        self.assertTrue(part.exists())
        # What it says there is to do about it can be done.
        told = re.search(r"to delete it: (.*)", result.err)
        assert told
        sh("sh", "-c", told[1])
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_what_somebody_made_under_a_name_is_no_partial(self) -> None:
        """It is in the way, also when a transfer of that name is on record; the other snapshots are sent."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        self.backup(source)
        name = names(source / "snapshot")[-1]
        sh("btrfs", "subvolume", "create", usb / name)
        (usb / name / "work").write_text("of a week")
        (source / "snapshot" / OUTSTANDING).write_text(json.dumps({name: {"locks": [str(usb)]}}))
        for _ in range(2):
            result = self.backup("-N", "1", source, usb, status=10)
            self.assertIn(f"cannot send {name}: '{usb}/{name}' is in the way: it is writable", result.err)
            self.assertEqual((usb / name / "work").read_text(), "of a week")
            self.assertIn(name, names(source / "snapshot"))
        newest = names(source / "snapshot")[-1]
        self.assert_same(usb / newest, source / "snapshot" / newest)


class BrokenStateFiles(RealTest):
    def test_outstanding(self) -> None:
        texts = ('{"20261123-042459": {"lo', "[]", '{"x": []}', '{"x": {"locks": "abc"}}', "\0", "{} {}")
        self.goes_on_without(OUTSTANDING, "since unfinished transfers are not known", *texts)

    def test_completed(self) -> None:
        texts = ("{", "[1]", '{"/usb": []}', '{"/usb": {"uuid": "name"}}', '{"/usb": {"uuid": [1]}}')
        self.goes_on_without(COMPLETED, "A disk that is away may need a full transfer", *texts)

    def goes_on_without(self, name: str, price: str, *texts: str) -> None:
        """It is moved aside, all is sent, and nothing is deleted at the source. PRICE: of its loss."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        file = source / "snapshot" / name
        for count, text in enumerate(texts, 1):
            with self.subTest(text):
                file.write_text(text)
                for looking in ("--dry-run", "--status"):
                    self.assertIn("is broken", self.backup("-N", "1", looking, source, usb, status=10).err)
                self.assertEqual(file.read_text(), text)
                result = self.backup("-N", "1", source, usb, status=10)
                self.assertIn(f"the state file '{file}' is broken", result.err)
                self.assertIn(f"; it was moved to '{file}.broken-{count}'", result.err)
                self.assertIn(price, result.err)
                self.assertEqual(Path(f"{file}.broken-{count}").read_text(), text)
                self.assertEqual(len(names(source / "snapshot")), count + 1)
                self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.backup("-N", "1", source, usb)
        self.assertEqual(len(names(source / "snapshot")), 1)

    def test_empty_means_no_records(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        (source / "snapshot").mkdir()
        for name in (OUTSTANDING, COMPLETED):
            (source / "snapshot" / name).write_text("")
        self.backup(source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_unwritable_record(self) -> None:
        """Without a record no transfer begins, and nothing that may be needed is deleted."""
        source, usb = self.source(), self.disk("usb").path
        (source / "snapshot" / f"{OUTSTANDING}.new").mkdir(parents=True)
        for _ in range(2):
            result = self.backup("-N", "1", source, usb, status=10)
        self.assertIn("cannot write", result.err)
        self.assertIn("no snapshot is deleted", result.err)
        self.assertEqual(names(usb), [])
        self.assertEqual(len(names(source / "snapshot")), 2)
        (source / "snapshot" / f"{OUTSTANDING}.new").rmdir()
        self.backup(source, usb)
        self.assertEqual(len(names(usb)), 3)

    def test_transfer_fails_and_that_cannot_be_recorded(self) -> None:
        """Both are told; what was on record before stays there."""
        source, usb = self.source(), self.disk("usb").path
        self.backup("-q", source)
        random_file(source / "large", 20)
        run = self.start("--rate-limit=10M", source, usb)
        wait_for(lambda: len(staged(usb)) == 2)
        receive = wait_for(lambda: child_running(run.pid, "btrfs", "receive"))
        kill(receive, signal.SIGSTOP)
        (source / "snapshot" / f"{OUTSTANDING}.new").mkdir()
        kill(receive)
        err = run.communicate()[1]
        first, second = names(source / "snapshot")
        self.assertIn(f"sending {second} failed: btrfs receive: ", err)
        self.assertIn("cannot write", err)
        self.assertIn("sent 1 snapshot", err)
        self.assertEqual(run.returncode, 10)
        self.assertEqual(list(on_record(source / "snapshot")), [first, second])
        self.assertEqual(names(usb), [first])
