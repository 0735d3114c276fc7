"""CRC-32C, fast enough for streams without help from C."""

from functools import cache

_REVERSED_POLYNOMIAL = 0x82F63B78
# x^_A + x^_B + x^_C + 1 is a multiple of the polynomial of CRC-32C (found by search, checked by a test). So are its
# squares x^2A + x^2B + x^2C + 1 and so on, since squaring modulo 2 keeps the number of terms.
_A, _B, _C = 5685, 1362, 426
_FOLD = _A - _B
_DOUBLINGS = 12


def crc32c(message: bytes) -> int:
    """The CRC-32C (Castagnoli) of MESSAGE as btrfs uses it: begun with 0, not inverted.

    The message is a polynomial modulo 2, its lowest bit first as the highest power. As long as it is long, its
    highest powers are replaced by what they are congruent to, many thousands at a time in three shifts of a large
    integer; only the rest goes through the usual table byte by byte.
    """
    bits = len(message) * 8
    value = int.from_bytes(message, "little")
    for doubled, mask in reversed(list(enumerate(_masks()))):
        fold = _FOLD << doubled
        while bits >= (_A << doubled) + fold:
            high_powers = value & mask
            value = (value >> fold) ^ high_powers
            value ^= high_powers << ((_B - _C) << doubled)
            value ^= high_powers << (_B << doubled)
            bits -= fold
    length = -(-bits // 8)
    table, crc = _table(), 0
    for byte in (value << (length * 8 - bits)).to_bytes(length, "little"):
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


@cache
def _masks() -> list[int]:
    return [(1 << (_FOLD << doubled)) - 1 for doubled in range(_DOUBLINGS)]


@cache
def _table() -> list[int]:
    return [_entry(byte) for byte in range(256)]


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_REVERSED_POLYNOMIAL if byte & 1 else 0)
    return byte
