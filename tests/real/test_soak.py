"""A sample of the soak: runs that are killed at any moment, and the next one brings everything right."""

from tests import soak
from tests.real.machine import RealTest


class KilledAnywhere(RealTest):
    def test_local(self) -> None:
        soak.soak(self, kills=8, seed=1, ssh=False)

    def test_over_ssh(self) -> None:
        soak.soak(self, kills=5, seed=2, ssh=True)
