"""Random histories of runs, on the product's own loop: they converge, and nothing needed is ever deleted."""

import os
import random
import unittest
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

from btrfs_backup.commands.run import run
from btrfs_backup.model import plan, world
from btrfs_backup.model.outcome import Outcome, Report
from btrfs_backup.model.world import World
from tests.unit import imagined
from tests.unit.imagined import Dry, Run, Universe

# Of a quick run of the tests; TESTED_HISTORIES sets another number, and _SEED where they begin.
HISTORIES = int(os.environ.get("TESTED_HISTORIES", "120"))
SEED = int(os.environ.get("TESTED_HISTORIES_SEED", "0"))
RUNS = 10


def replaced(value: Any, **changes: object) -> Any:
    """What dataclasses.replace makes, in a fraction of its time, which is half of that of a run here."""
    other = object.__new__(type(value))
    other.__dict__.update(value.__dict__, **changes)
    return other


class Histories(unittest.TestCase):
    def test_random_histories(self) -> None:
        with mock.patch.multiple(world, replace=replaced), mock.patch.object(plan, "replace", replaced):
            self.histories()

    def histories(self) -> None:
        for seed in range(SEED, SEED + HISTORIES):
            try:
                self.history(seed)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error

    def history(self, seed: int) -> None:
        universe = Universe(seed)
        for _ in range(RUNS - 1):
            universe.pass_time()
            if universe.dice.random() < 0.25:
                universe.meddle()
            settings = universe.settings(**self.options(universe.dice))
            trouble = universe.dice.choice((0, 0.1, 0.3))
            supposed = self.supposed(universe, settings) if not trouble else None
            actor = Run(self, universe, settings, trouble)
            report = actor.carry_out()
            if report:
                actor.check(report)
            if not trouble:
                self.assertEqual(supposed and comparable(supposed), report and comparable(report))
        universe.pass_time()
        settings = universe.settings()
        actor = Run(self, universe, settings, 0.0)
        report = actor.carry_out()
        assert report
        actor.check(report)
        imagined.converged(self, universe, settings)

    def options(self, dice: random.Random) -> Mapping[str, Any]:
        """What differs from a run of all: seldom anything."""
        options = {
            "take_snapshot": False,
            "transfer": False,
            "incremental": False,
            "shared_stream": False,
            "remove_locks": True,
            "destinations": (),
            "locked_dests": True,
        }
        chosen = {name: value for name, value in options.items() if dice.random() < 0.08}
        return {**chosen, "skip_absent": dice.random() < 0.5}

    def supposed(self, universe: Universe, settings: Any) -> Report | None:
        """What a dry run says."""
        worlds: list[World] = []
        run(Dry(universe, settings), worlds.append)
        return worlds[-1].report()


def comparable(report: Report) -> Report:
    """Without what is only known afterwards."""

    def plain(outcome: Outcome) -> Outcome:
        sent = tuple(replace(each, bytes=None, seconds=None, because="") for each in outcome.sent)
        failures: Any = tuple(map(str, outcome.failures))
        return replace(outcome, sent=sent, failures=failures)

    return replace(report, source=plain(report.source), destinations=tuple(plain(each) for each in report.destinations))
