"""Random access to the records of TFRecord files, without TensorFlow.

A file is a sequence of records: the length of the data (8 bytes, little-endian), a checksum of the
length (4), the data, a checksum of the data (4). A checksum is CRC-32C, rotated and shifted by a
constant (tensorflow/core/lib/io/record_writer.h). `scan` reads the lengths once, which gives the
offset of every record.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tljax.errors import InputError

_HEADER = 12  # bytes before the data: its length and the checksum of the length
_FOOTER = 4  # bytes after it


def scan(file: Path) -> np.ndarray:
    """Finds the records of a file.

    Returns:
      int64 (n, 2): offset and length of each record's data, in bytes.

    Raises:
      InputError: The file cannot be read, is truncated, or is not a TFRecord file.
    """
    found = []
    try:
        with file.open("rb") as content:
            size = os.fstat(content.fileno()).st_size
            start = 0
            while start < size:
                content.seek(start)
                header = content.read(_HEADER)
                length = int.from_bytes(header[:8], "little")
                end = start + _HEADER + length + _FOOTER
                if _masked_crc(header[:8]) != header[8:] or end > size:
                    raise InputError(
                        f"{file} is truncated or not a TFRecord file (at byte {start:,}); copy or"
                        " prepare it again"
                    )
                found.append((start + _HEADER, length))
                start = end
    except OSError as error:
        raise InputError(
            f"cannot read {file} ({error.strerror or error}); copy or prepare it again"
        ) from error
    return np.array(found, np.int64).reshape(-1, 2)


class TFRecords:
    """The records of several files, by number; any number of threads and processes may read.

    Args:
      files: The files.
      file_numbers: int (n,), the index in `files` of each record's file.
      places: int (n, 2), offset and length of each record, as `scan` returns them.
    """

    def __init__(self, files: Sequence[Path], file_numbers: np.ndarray, places: np.ndarray):
        self._files, self._file_numbers, self._places = files, file_numbers, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> bytes:
        start, length = self._places[index].tolist()
        with self._files[self._file_numbers[index]].open("rb", buffering=0) as content:
            return os.pread(content.fileno(), length, start)


def _table() -> tuple[int, ...]:
    """The CRC-32C (Castagnoli, bits reversed) of every byte."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE = _table()


def _masked_crc(data: bytes) -> bytes:
    """The checksum of a few bytes, as stored in a file."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")
