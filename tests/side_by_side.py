"""Runs the classes of a suite in several processes; what comes of the tests is told as always."""

import os
import signal
import sys
import traceback
import unittest
from collections.abc import Callable, Iterator
from multiprocessing import Pipe, connection
from typing import Any


class SideBySide(unittest.TestSuite):
    """The workers are forks of this process, so that they have all the tests; they are told the numbers of classes."""

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        tests = list(_flat(self))
        # Those of many tests first: at the end all workers shall be busy.
        classes = sorted({type(test) for test in tests}, key=lambda each: -sum(type(test) is each for test in tests))
        # One more than processors: much of their time is waiting.
        processors = len(os.sched_getaffinity(0))
        count = min(processors + 1, len(classes))
        if processors < 2 or count < 2 or debug:
            return super().run(result, debug)
        workers: dict[connection.Connection, int] = {}
        buffer = result.buffer
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a fork must not get out of `_work` by it
            for _ in range(count):
                near, far = Pipe()
                if not (pid := os.fork()):
                    _work(far, [near, *workers], tests, classes, result)
                far.close()
                workers[near] = pid
            result.buffer = False  # the workers do that
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            _hand_out(list(workers), list(range(len(classes))), tests, result)
        finally:
            # Those that still run clean up, as after Ctrl-C.
            for near, pid in workers.items():
                near.close()
                os.kill(pid, signal.SIGINT)
            for pid in workers.values():
                os.waitpid(pid, 0)
            result.buffer = buffer
        return result


def _flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for each in suite:
        yield from _flat(each) if isinstance(each, unittest.TestSuite) else (each,)


def _hand_out(workers: list[Any], classes: list[int], tests: list[Any], result: unittest.TestResult) -> None:
    """Give a class to each worker that asks for one, which it does without any events; tell RESULT of the events."""
    while workers and not result.shouldStop:
        for worker in connection.wait(workers):
            events = worker.recv()  # type: ignore[union-attr]
            for method, test, *more in events:
                tell = getattr(result, method, lambda *_: None)
                tell(tests[test] if isinstance(test, int) else test, *map(_received, more))
            if not events and classes:
                worker.send(classes.pop(0))  # type: ignore[union-attr]
            elif not events:
                workers.remove(worker)


def _work(
    channel: Any, others: list[Any], tests: list[unittest.TestCase], classes: list[type], told: unittest.TestResult
) -> None:
    """The life of a worker: it does not return."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is cleaned up then is to be finished
        raise KeyboardInterrupt

    try:
        try:
            for other in others:
                other.close()
            signal.signal(signal.SIGINT, interrupt)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            while True:
                channel.send([])
                wanted = classes[channel.recv()]
                result = _Recorder(tests, channel.send)
                result.buffer, result.failfast, result.tb_locals = told.buffer, told.failfast, told.tb_locals
                unittest.TestSuite(test for test in tests if type(test) is wanted).run(result)
                result.send()
        except (KeyboardInterrupt, EOFError, OSError):
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
    finally:
        os._exit(0)


class _Recorder(unittest.TestResult):
    """Collects what happens to a test, and hands it to TELL: method, number of the test, further arguments."""

    def __init__(self, tests: list[unittest.TestCase], tell: Callable[[Any], None]) -> None:
        super().__init__()
        self.numbers = {id(test): number for number, test in enumerate(tests)}
        self.tell = tell
        self.events: list[tuple[object, ...]] = []

    def send(self) -> None:
        if self.events:
            self.tell(self.events)
        self.events = []

    def sent(self, test: Any, value: Any) -> object:
        if isinstance(value, tuple):
            kind = AssertionError if issubclass(value[0], AssertionError) else RuntimeError
            return kind("\n" + self._exc_info_to_string(value, test))
        return _Titled(str(value)) if isinstance(value, unittest.TestCase) else value


def _received(value: object) -> object:
    return (type(value), value, None) if isinstance(value, Exception) else value


def _recording(method: str) -> Callable[..., None]:
    def record(self: _Recorder, test: Any, *more: Any) -> None:
        getattr(super(_Recorder, self), method, lambda *_: None)(test, *more)
        number = self.numbers.get(id(test), _Titled(str(test)))
        self.events.append((method, number, *(self.sent(test, each) for each in more)))
        if method == "stopTest":
            self.send()

    return record


for _method in ("startTest", "stopTest", *(name for name in dir(unittest.TestResult) if name.startswith("add"))):
    setattr(_Recorder, _method, _recording(_method))


class _Titled(unittest.TestCase):
    """Stands for a subtest, or the fixtures of a class."""

    def __init__(self, title: str) -> None:
        super().__init__("run")
        self.title = title

    def __str__(self) -> str:
        return self.title


def load(package: str, loader: unittest.TestLoader, pattern: str | None) -> unittest.TestSuite:
    """All tests in the folder of that PACKAGE, whose file is given; see the load_tests protocol of unittest."""
    folder = os.path.dirname(package)
    return SideBySide([loader.discover(folder, pattern or "test*.py", os.path.dirname(os.path.dirname(folder)))])
