"""Samples of the soaks: runs are killed at any moment, or disturbed by people, and the next one brings all right."""

from tests import breaks, identity, outages, soak
from tests.real.machine import RealTest


class KilledAnywhere(RealTest):
    def test_local(self) -> None:
        soak.soak(self, kills=8, seed=1, ssh=False)

    def test_over_ssh(self) -> None:
        soak.soak(self, kills=5, seed=2, ssh=True)


class BrokenAnywhere(RealTest):
    def test_connection(self) -> None:
        self.assertGreater(breaks.soak(self, breaks=5, seed=1), 1)


class PowerCutAnywhere(RealTest):
    def test_destination(self) -> None:
        outages.soak(self, outages=3, seed=1)


class People(RealTest):
    def test_identity(self) -> None:
        identity.soak(self, acts=2, seed=6)
