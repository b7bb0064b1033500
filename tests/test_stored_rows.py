"""Rows on the disk: what is damaged is missing, and all else is what was written."""

import os

import numpy as np
import pytest

from tljax.runs.stored_rows import StoredRows

COUNT = 40
VALUES = np.random.default_rng(0).normal(size=(COUNT, 3, 500)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """A folder that holds all rows."""
    stored = StoredRows(tmp_path, VALUES.shape)
    stored.write(np.arange(COUNT), VALUES)
    return tmp_path


# Each damages the files of 40 rows, and returns the rows that are then missing.


def cut_the_rows(folder, row_bytes):
    path = folder / "features.npy"
    os.truncate(path, path.stat().st_size - 5 * row_bytes + 1)
    return range(35, 40)


def zero_4_kb(folder, row_bytes):
    with (folder / "features.npy").open("r+b") as file:
        file.seek(-30 * row_bytes, os.SEEK_END)
        file.write(bytes(4096))
    return range(10, 10 + -(-4096 // row_bytes))


def flip_a_bit(folder, row_bytes):
    path = folder / "features.npy"
    content = bytearray(path.read_bytes())
    content[-7 * row_bytes + 5] ^= 4
    path.write_bytes(content)
    return [33]


def damage_the_header(folder, row_bytes):
    with (folder / "features.npy").open("r+b") as file:
        file.write(b"not NumPy's")
    return range(COUNT)


def append_to_the_rows(folder, row_bytes):
    with (folder / "features.npy").open("ab") as file:
        file.write(bytes(100))
    return []


def remove_the_rows(folder, row_bytes):
    (folder / "features.npy").unlink()
    return range(COUNT)


def cut_the_checksums(folder, row_bytes):
    path = folder / "checksums.npy"
    os.truncate(path, path.stat().st_size - 3 * 8 + 1)
    return range(37, COUNT)


def empty_the_checksums(folder, row_bytes):
    os.truncate(folder / "checksums.npy", 0)
    return range(COUNT)


def zero_the_checksums(folder, row_bytes):
    path = folder / "checksums.npy"
    with path.open("r+b") as file:
        file.seek(-COUNT * 8, os.SEEK_END)
        file.write(bytes(COUNT * 8))
    return range(COUNT)


@pytest.mark.parametrize(
    "damage",
    [
        cut_the_rows,
        zero_4_kb,
        flip_a_bit,
        damage_the_header,
        append_to_the_rows,
        remove_the_rows,
        cut_the_checksums,
        empty_the_checksums,
        zero_the_checksums,
    ],
)
def test_damaged_rows_are_missing_and_counted(damage, folder, caplog):
    lost = np.array(list(damage(folder, VALUES[0].nbytes)), int)
    stored = StoredRows(folder, VALUES.shape)
    assert stored.missing(np.arange(COUNT)).tolist() == lost.tolist()
    assert caplog.text.count(f"{len(lost)} of {COUNT} rows") == (1 if len(lost) else 0)
    stored.write(lost, VALUES[lost])
    np.testing.assert_array_equal(stored.values(), VALUES)
    caplog.clear()
    again = StoredRows(folder, VALUES.shape)
    assert again.missing(np.arange(COUNT)).tolist() == []
    np.testing.assert_array_equal(again.values(), VALUES)
    assert not caplog.text


def test_only_the_wanted_rows_are_checked(folder, caplog):
    flip_a_bit(folder, VALUES[0].nbytes)
    stored = StoredRows(folder, VALUES.shape)
    assert stored.missing(np.array([7, 3, 3])).tolist() == []
    assert not caplog.text
    assert stored.missing(np.array([33, 3])).tolist() == [33]
    assert "1 of 2 rows" in caplog.text


def test_rows_that_nobody_wrote_are_missing_and_not_damaged(tmp_path, caplog):
    stored = StoredRows(tmp_path, VALUES.shape)
    stored.write(np.array([4, 2]), VALUES[[4, 2]])
    again = StoredRows(tmp_path, VALUES.shape)
    assert again.missing(np.array([5, 4, 2, 1])).tolist() == [1, 5]
    np.testing.assert_array_equal(again.values()[[2, 4]], VALUES[[2, 4]])
    assert not caplog.text


def test_rows_of_zeros_are_rows(tmp_path):
    stored = StoredRows(tmp_path, (2, 8))
    stored.write(np.array([1]), np.zeros((1, 8), np.float32))
    assert StoredRows(tmp_path, (2, 8)).missing(np.arange(2)).tolist() == [0]


def test_what_is_called_between_blocks_ends_the_check(folder):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StoredRows(folder, VALUES.shape).missing(np.arange(COUNT), stop)
