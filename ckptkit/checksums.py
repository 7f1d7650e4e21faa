"""CRC-32C (Castagnoli), the checksum of everything in a TensorFlow checkpoint, and how one is disguised on disk.

crc32c(b"123456789")  # 0xe3069283
crc32c(b"56789", crc32c(b"1234"))  # the same, in two steps
unmasked(masked(0xE3069283))  # 0xe3069283
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["crc32c", "masked", "unmasked"]

_DELTA = 0xA282EAD8
_32_BITS = 0xFFFFFFFF


def crc32c(buffer: Buffer, crc: int = 0) -> int:
    """Return the CRC-32C of a contiguous buffer, or of all bytes so far where ``crc`` is that of those before."""
    # Imported here: the package looks its version up and builds a command line, 40 ms that `ckptkit ls` can do without.
    from crc32c import crc32c as of_hardware

    return of_hardware(buffer, crc)


def masked(crc: int) -> int:
    """Return a checksum as LevelDB stores it: the checksum of data that holds plain checksums is a weak one."""
    return (((crc >> 15) | (crc << 17)) + _DELTA) & _32_BITS


def unmasked(stored: int) -> int:
    """Return the checksum that ``masked`` was given."""
    rotated = (stored - _DELTA) & _32_BITS
    return ((rotated >> 17) | (rotated << 15)) & _32_BITS
