"""Mutations that get past the first check of a format.

Half of them split a file into parts, change one part and join the parts again with correct lengths
and checksums: chunks of PNG (inflated) and WebP, segments of JPEG, blocks of GIF, entries of TIFF,
boxes of JPEG 2000 and AVIF, members of an .npz, the header of safetensors, values of JSON, cells of
tables. The other half change the raw bytes; PNG checksums are corrected even then.
"""

import io
import itertools
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_DTYPES = (
    *("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64"),
    *("C64", "F4", "F6_E2M3", "F8_E5M2", "F8_E4M3", "<f2", "<f4", ">f8", "<f16", "<i1", "|b1"),
    *("|O", "|V0", "|V2", "|V3", "<U0", "<U4", "|S0", "<M8[ns]", "<c8"),
)
_VALUES = (
    *(None, True, False, 0, 1, -1, 3, 2.5, -0.0, 1e-320, float("nan"), float("inf")),
    *(2**31, 2**53 + 1, 2**63, 2**64 - 1, 10**400, "", "a", "\n", "\x1b[31m", "0", "é\ud800"),
    *([], {}, [1], [1, 2, 3], [0, 2**62], ["a"] * 3, [0.5] * 3, {"a": 1}),
    *_DTYPES,
)
_TOKENS = (
    *(b"0", b"1", b"-1", b"3", b"2.5", b"1e999", b"9" * 30, b"9" * 5000, b"1099511627776", b"3L"),
    *(b"None", b"True", b"NaN", b"''", b'"', b"'", b"(", b")", b"[", b"]", b"{", b"}", b",", b":"),
    *(b"", b" ", b"\n", b"#", b"\\", b"\0", b"\xff", b"[" * 3000, b'{"a":' * 3000, b"-" * 3000),
    *(repr(dtype).encode() for dtype in _DTYPES),
)
_TOKEN = re.compile(rb"'[^']*'|\"[^\"]*\"|[\w.]+|[^\w\s]")


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Returns `data` with one to four changes, some of them splices with `other`."""
    changed = data
    for _ in range(rng.integers(1, 5)):
        form = _form(changed)
        if form is None or rng.random() < 0.5:
            changed = with_checksums(_bytes_changed(changed, other, rng))
        else:
            parts = form.split(changed)
            others = form.split(other) if _form(other) is form else []
            changed = form.join(form.change(parts, others or parts, rng))
    return changed


def with_checksums(data: bytes) -> bytes:
    """A PNG with the CRC of each chunk corrected; any other file unchanged."""
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


def _bytes_changed(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Changes, cuts, repeats or splices a bit, a byte, a number, a word or a slice."""
    if not data:
        return other
    changed, at = bytearray(data), int(rng.integers(len(data)))
    match rng.integers(8):
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
        case 6 if other:
            start = int(rng.integers(len(other)))
            changed[at : at + 16] = other[start : start + int(rng.integers(1, 64))]
        case _:
            words = list(_TOKEN.finditer(data, at, at + 256))
            if words:
                start, end = words[rng.integers(len(words))].span()
                changed[start:end] = _TOKENS[rng.integers(len(_TOKENS))]
    return bytes(changed)


# --- file formats -------------------------------------------------------------------------------


class _Form:
    """A file as a list of named parts."""

    split: Callable[[bytes], list[tuple[bytes, bytes]]]
    join: Callable[[list[tuple[bytes, bytes]]], bytes]
    change_body = staticmethod(_bytes_changed)

    def change(self, parts: list, others: list, rng: np.random.Generator) -> list:
        """Changes, drops, repeats or moves a part, or inserts one of the other file."""
        parts = list(parts)
        if not parts:
            return others
        at = int(rng.integers(len(parts)))
        name, body = parts[at]
        strange_name, strange = others[rng.integers(len(others))]
        match rng.integers(10):
            case 0:
                del parts[at]
            case 1:
                parts.insert(int(rng.integers(len(parts) + 1)), parts[at])
            case 2:
                parts.insert(int(rng.integers(len(parts))), parts.pop(at))
            case 3:
                parts.insert(at, (strange_name, strange))
            case 4:
                parts[at] = name, strange
            case _:
                parts[at] = name, self.change_body(body, strange, rng)
        return parts


class _Png(_Form):
    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        parts, at = [], len(_PNG)
        while at + 12 <= len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
            at += 12 + length
        return parts

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        chunks = [
            len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
            for name, body in parts
        ]
        return b"".join([_PNG, *chunks])

    @staticmethod
    def change_body(body: bytes, strange: bytes, rng: np.random.Generator) -> bytes:
        for start in (0, 4, body.find(b"\0") + 2):  # where deflated bytes begin in most chunks
            if rng.random() < 0.8:
                try:
                    plain = zlib.decompressobj().decompress(body[start:], 2**16)
                except zlib.error:
                    continue
                return body[:start] + zlib.compress(_bytes_changed(plain, strange, rng), 1)
        return _bytes_changed(body, strange, rng)


class _Riff(_Form):
    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        parts, at = [], 12
        while at + 8 <= len(data):
            length = int.from_bytes(data[at + 4 : at + 8], "little")
            parts.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
            at += 8 + length + length % 2
        return parts

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        chunks = b"".join(
            name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
            for name, body in parts
        )
        return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


class _Jpeg(_Form):
    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        parts, at = [], 2
        while at + 4 <= len(data) and data[at] == 0xFF:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            parts.append((data[at : at + 2], data[at + 4 : at + 2 + max(length, 2)]))
            at += 2 + max(length, 2)
            if parts[-1][0] == b"\xff\xda":  # compressed data follows, until another marker
                end = re.compile(rb"\xff[^\x00\xd0-\xd7]").search(data, at)
                end_at = end.start() if end else len(data)
                parts.append((b"", data[at:end_at]))
                at = end_at
        return [*parts, (b"", data[at:])]

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        segments = [
            name + min(len(body) + 2, 0xFFFF).to_bytes(2, "big") + body if name else body
            for name, body in parts
        ]
        return b"".join([b"\xff\xd8", *segments])


class _Gif(_Form):
    """The head with the colours, then each block."""

    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        colours = 3 * 2 ** (data[10] % 8 + 1) if len(data) > 10 and data[10] & 0x80 else 0
        parts, at = [(b"", data[: 13 + colours])], 13 + colours
        while at < len(data):
            start, kind = at, data[at]
            if kind == 0x2C and at + 9 < len(data):  # an image: its own colours, then a byte
                at += 11 + (3 * 2 ** (data[at + 9] % 8 + 1) if data[at + 9] & 0x80 else 0)
            else:
                at += 2 if kind == 0x21 else len(data)
            while at < len(data) and data[at]:  # blocks of data, the last of which is empty
                at += 1 + data[at]
            at += 1
            parts.append((b"", data[start:at]))
        return parts

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        return b"".join(body for _, body in parts)


class _Tiff(_Form):
    """The entries of the first directory, and all the rest."""

    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        order: Any = "little" if data[:2] == b"II" else "big"
        at = int.from_bytes(data[4:8], order)
        count = int.from_bytes(data[at : at + 2], order)
        ends = [at + 2 + 12 * number for number in range(min(count, 64) + 1)]
        entries = [(b"entry", data[a:b]) for a, b in itertools.pairwise(ends)]
        return [(b"", data[: at + 2]), *entries, (b"", data[ends[-1] :])]

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        return b"".join(body for _, body in parts)  # damage to lengths is part of the matter


class _Boxes(_Form):
    """JPEG 2000 and AVIF: boxes, some of which hold boxes."""

    _NESTS = (b"jp2h", b"meta", b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl")

    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        parts, at = [], 0
        while at + 8 <= len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            length = length if 8 <= length <= len(data) - at else len(data) - at
            parts.append((data[at + 4 : at + 8], data[at + 8 : at + length]))
            at += length
        return parts

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        return b"".join((len(body) + 8).to_bytes(4, "big") + name + body for name, body in parts)

    def change(self, parts: list, others: list, rng: np.random.Generator) -> list:
        nests = [at for at, (name, _) in enumerate(parts) if name in self._NESTS]
        if not nests or rng.random() < 0.3:
            return super().change(parts, others, rng)
        at = int(rng.choice(nests))
        name, body = parts[at]
        skipped = 4 if name == b"meta" else 0  # version and flags
        strange = [part for part in others if part[0] == name]
        further = self.split((strange or parts[at : at + 1])[0][1][skipped:])
        inner = self.change(self.split(body[skipped:]), further, rng)
        return [*parts[:at], (name, body[:skipped] + self.join(inner)), *parts[at + 1 :]]


class _Zip(_Form):
    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return [(name.encode(), archive.read(name)) for name in archive.namelist()]
        except Exception:  # any kind of damage
            return []

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        buffer = io.BytesIO()
        names = [name.decode(errors="replace") for name, _ in parts]
        size = sum(len(body) for _, body in parts)
        method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)[
            (0, 0, 0, 1, 1, 1, 2, 3)[size % 8]
        ]
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
            warnings.simplefilter("ignore")  # about duplicate names
            for name, (_, body) in zip(names, parts, strict=True):
                archive.writestr(name or "a.npy", body)
        return buffer.getvalue()


class _Safetensors(_Form):
    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        length = int.from_bytes(data[:8], "little")
        return [(b"header", data[8 : 8 + length]), (b"data", data[8 + length :])]

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        header = b"".join(body for name, body in parts if name == b"header")
        data = b"".join(body for name, body in parts if name == b"data")
        return len(header).to_bytes(8, "little") + header + data

    @staticmethod
    def change_body(body: bytes, strange: bytes, rng: np.random.Generator) -> bytes:
        return _JSON.change_body(body, strange, rng)


class _Json(_Form):
    """One part for JSON; one part per line for JSON lines."""

    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        return [(b"", line) for line in data.splitlines(keepends=True)]

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        return b"".join(body for _, body in parts)

    @staticmethod
    def change_body(body: bytes, strange: bytes, rng: np.random.Generator) -> bytes:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return _bytes_changed(body, strange, rng)
        ending = b"\n" if body.endswith(b"\n") else b""
        try:
            return json.dumps(_value_changed(value, rng)).encode() + ending
        except ValueError:  # an integer too long to be written
            return body


def _value_changed(value: Any, rng: np.random.Generator) -> Any:
    """Replaces, removes or duplicates one value, at any depth, of a JSON value."""
    if isinstance(value, str) and value.startswith("{"):  # JSON within JSON
        return _JSON.change_body(value.encode(errors="replace"), b"", rng).decode(errors="replace")
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return _VALUES[rng.integers(len(_VALUES))]
    if isinstance(value, list):
        value, at = list(value), int(rng.integers(len(value)))
        match rng.integers(6):
            case 0:
                del value[at]
            case 1:
                value.insert(at, value[at])
            case _:
                value[at] = _value_changed(value[at], rng)
        return value
    keys = list(value)
    key, other = keys[rng.integers(len(keys))], keys[rng.integers(len(keys))]
    match rng.integers(8):
        case 0:
            return {name: value[name] for name in keys if name != key}
        case 1:
            return {**value, str(_VALUES[rng.integers(16)]): value[key]}
        case 2:
            return {**value, key: value[other]}
        case _:
            return {**value, key: _value_changed(value[key], rng)}


_JSON = _Json()
_CELLS = (
    *(b"", b" ", b"0", b"1", b"yes", b"2", b"-1", b"0.5", b"nan", b"inf", b"1e39", b"1_0", b"0x1"),
    *(b'"a;b"', b"a|b", b"a;b|c", b";", b'"a,b"', b"path", b"label", b"train", b"val", b"a.png"),
    *(b"./0.png", b"label=tags", b"numbers=age", b"labels=tags", b"labels=young+wild", b"\xff"),
)


class _Table(_Form):
    """The cells of a table, each with what is behind it; their number stays."""

    def split(self, data: bytes) -> list[tuple[bytes, bytes]]:
        pieces = [*re.split(rb"([,;\t\r\n]+)", data), b""]
        return list(zip(pieces[1::2], pieces[::2], strict=True))

    def join(self, parts: list[tuple[bytes, bytes]]) -> bytes:
        return b"".join(cell + behind for behind, cell in parts)

    def change(self, parts: list, others: list, rng: np.random.Generator) -> list:
        parts, at = list(parts), int(rng.integers(len(parts)))
        behind, cell = parts[at]
        match rng.integers(3):
            case 0:
                cell = _CELLS[rng.integers(len(_CELLS))]
            case 1:
                cell = parts[rng.integers(len(parts))][1]
            case _:
                cell = re.sub(rb"[,;\t\r\n]", b"", _bytes_changed(cell, others[0][1], rng))
        parts[at] = behind, cell
        return parts


_FORMS: dict[str, _Form] = {
    **{"png": _Png(), "riff": _Riff(), "jpeg": _Jpeg(), "gif": _Gif(), "tiff": _Tiff()},
    **{"boxes": _Boxes(), "zip": _Zip(), "st": _Safetensors(), "table": _Table()},
}


def _form(data: bytes) -> _Form | None:
    """The format that splits a file, detected from its first bytes."""
    if data.startswith(_PNG):
        return _FORMS["png"]
    if data.startswith(b"RIFF"):
        return _FORMS["riff"]
    if data.startswith(b"\xff\xd8"):
        return _FORMS["jpeg"]
    if data.startswith(b"GIF8"):
        return _FORMS["gif"]
    if data.startswith((b"II*\0", b"MM\0*")):
        return _FORMS["tiff"]
    if data[4:8] in (b"jP  ", b"ftyp"):
        return _FORMS["boxes"]
    if data.startswith(b"PK"):
        return _FORMS["zip"]
    if data[8:9] == b"{" and data[4:8] == bytes(4):
        return _FORMS["st"]
    if data[:1] not in (b"{", b"[") and (b"path" in data[:64] or b"image" in data[:64]):
        return _FORMS["table"]
    return _JSON if data[:1] in (b"{", b"[") else None
