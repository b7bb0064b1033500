"""Mutations that get past the first check of a format: checksums are put right afterwards."""

import struct
import zlib

import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, numbers, cuts, repeats, and splices with `other`."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not changed:
            break
        at = int(rng.integers(len(changed)))
        match rng.integers(7):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.integers(256))
            case 2:
                number = int(rng.choice(_NUMBERS))
                form = ("<I", ">I", "<H", ">H", "<Q")[rng.integers(5)]
                packed = struct.pack(form, number & (2 ** (8 * struct.calcsize(form)) - 1))
                changed[at : at + len(packed)] = packed
            case 3:
                del changed[at : at + int(rng.integers(1, 64))]
            case 4:
                piece = changed[at : at + int(rng.integers(1, 64))]
                changed[at:at] = piece * int(rng.integers(1, 4))
            case 5:
                del changed[at:]
            case 6:
                start = int(rng.integers(len(other)))
                changed[at : at + 16] = other[start : start + int(rng.integers(1, 64))]
    return with_checksums(bytes(changed))


def with_checksums(data: bytes) -> bytes:
    """A PNG with the CRC of each chunk put right; anything else as it is."""
    if not data.startswith(_PNG):
        return data
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        parts += [data[at : at + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        at += 12 + length
    return b"".join([*parts, data[at:]])
