"""How much space deleting snapshots would free: the data that nothing else holds. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_KEPT, _GOING = 0, 1  # holders of an extent: something that stays; several, all of which are to be deleted


@dataclass(frozen=True)
class Sizes:
    """The space that snapshots or backups in one folder take up, in bytes.

    alone: what only it holds, by its name. going: how many are to be deleted; freed: by all those together.
    more: each figure is a lower bound, in which compressed data counts in full. more_freed: what is freed may be more.
    """

    alone: Mapping[str, int] = field(default_factory=dict)
    going: int = 0
    freed: int = 0
    more: bool = False
    more_freed: bool = False


class Extents:
    """The data extents of subvolumes, each with its holder. Subvolumes are named by their numbers.

    An extent is one number, made by `extent`: there may be millions. going: the subvolumes that are to be deleted.
    """

    def __init__(self, going: Collection[int]) -> None:
        self._going = {*going, _GOING}
        self._holders: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def add(self, holder: int, extents: Iterable[int]) -> None:
        """HOLDER holds EXTENTS, perhaps several times."""
        holders, going = self._holders, self._going
        for each in extents:
            before = holders.setdefault(each, holder)
            if before not in (holder, _KEPT):
                holders[each] = _GOING if holder in going and before in going else _KEPT

    def keep(self, extent: int) -> None:
        """Something else holds EXTENT, too."""
        self._holders[extent] = _KEPT

    def candidates(self) -> Iterator[int]:
        """Those that one subvolume alone holds, or several that are to be deleted. They may be kept meanwhile."""
        return (each for each, holder in self._holders.items() if holder != _KEPT)

    def sizes(self, names: Mapping[int, str]) -> Sizes:
        """What the subvolumes of those NAMES hold."""
        alone = dict.fromkeys((*names, _GOING), 0)
        for each in self.candidates():
            alone[self._holders[each]] += size(each)
        freed = sum(count for number, count in alone.items() if number in self._going)
        return Sizes({name: alone[number] for number, name in names.items()}, len(self._going) - 1, freed)


def extent(start: int, length: int) -> int:
    """The extent of LENGTH bytes on disk at START; both are multiples of 4096, and it has 128 MiB at most."""
    return start << 4 | length >> 12


def start(extent: int) -> int:
    return extent >> 16 << 12


def size(extent: int) -> int:
    return (extent & 0xFFFF) << 12
