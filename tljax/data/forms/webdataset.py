"""`wds:SHARDS`: WebDataset tars, in which files of one name and several suffixes are a sample.

    000017.jpg  000017.cls                   an image and the number or name of its class
    000018.jpg  000018.json                  fields: {"label": "cat", "group": "tom"}
    000019.jpg  000019.txt                   a name, labels with a separator, or a number

Tars are indexed by their headers, and an image is read when a batch needs it.
"""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tljax.console import warn_once
from tljax.data.forms.shards import Shard, find_shards
from tljax.data.images import EXTENSIONS
from tljax.data.listing import shortened
from tljax.data.packed import ImageFile, Member
from tljax.data.table.columns import Table, choose
from tljax.data.table.spec import USUAL, Spec
from tljax.errors import InputError, printable
from tljax.files import parse_json

_TEXTS = ("cls", "txt", "json")
_LABELS = ("cls", *USUAL["label"], "txt", "json")
_IMAGE = "image"  # the column of the images, whatever their suffix is
_MOST_TEXT = 1 << 20  # bytes
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclass
class _Sample:
    """The files of one name in a tar."""

    place: str
    images: dict[str, Member] = field(default_factory=dict)  # by suffix
    fields: dict[str, Any] = field(default_factory=dict)


def read(spec: Spec) -> Table:
    """Returns the samples of all shards as one table.

    Raises:
      InputError: There are no such shards, one cannot be read, or a sample has two images.
    """
    shards = find_shards(spec, (".tar",))
    samples: list[tuple[Shard, _Sample]] = []
    for shard in shards:
        samples += [(shard, sample) for sample in _samples(shard)]
    without = [sample.place for _, sample in samples if not sample.images]
    if without:
        warn_once(
            f"{len(without):,} samples of {spec} have no image and are left out:"
            f" {shortened(without)}"
        )
    samples = [pair for pair in samples if pair[1].images]
    if not samples:
        raise InputError(f"{spec} holds no images; are these the tars of a WebDataset?")
    header = list(dict.fromkeys(name for _, sample in samples for name in sample.fields))
    suffixes = {suffix for _, sample in samples for suffix in sample.images}
    image = spec.names.get("path", _IMAGE)
    named = sorted(suffixes) if image in suffixes else [_IMAGE]
    chosen = choose(spec, [*named, *header], [image], label_names=_LABELS)
    cells = {name: [sample.fields.get(name) for _, sample in samples] for name in chosen.cells}
    images: list[ImageFile] = [_image(spec, sample, image) for _, sample in samples]
    splits = [shard.split or "" for shard, _ in samples]
    return Table(
        spec.place,
        chosen,
        cells,
        images,
        [found.name for found in images],
        [sample.place for _, sample in samples],
        splits if all(splits) else None,
        separator=spec.separator,
    )


def _image(spec: Spec, sample: _Sample, suffix: str) -> Member:
    if suffix in sample.images:
        return sample.images[suffix]
    if suffix != _IMAGE:
        raise InputError(f"{sample.place} of {spec} has no image .{suffix}; add it or remove it")
    if len(sample.images) > 1:
        found = sorted(sample.images)
        raise InputError(
            f"{sample.place} of {spec} has {len(found)} images ({', '.join(found)}); choose one"
            f" with ?image={found[0]}"
        )
    return next(iter(sample.images.values()))


def _samples(shard: Shard) -> list[_Sample]:
    """The samples of a tar, in its order."""
    samples: dict[str, _Sample] = {}
    try:
        for name, member, content in _members(shard):
            folder, base = posixpath.split(name)
            if base.startswith("."):  # e.g. what macOS adds to a tar
                continue
            stem, _, suffix = base.partition(".")
            key, suffix = posixpath.join(folder, stem), suffix.lower()
            place = f"the sample '{printable(key)}' of {shard.name}"
            sample = samples.setdefault(key, _Sample(place))
            is_image = f".{suffix}".endswith(EXTENSIONS)
            if suffix in sample.fields or suffix in sample.images:
                raise InputError(f"{place} has two files .{suffix}; remove one")
            if is_image:
                sample.images[suffix] = Member(shard.file, member.offset_data, member.size, name)
            elif suffix.rpartition(".")[2] in _TEXTS:
                sample.fields |= _fields(suffix, content, f"{place}, .{suffix},")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"cannot read {shard.file} ({_why(shard)}); {_remedy(shard)}") from error
    return list(samples.values())


def _members(shard: Shard) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """(name, member, content) of each file; only texts are read."""
    with tarfile.open(shard.file, "r:") as tar:
        for member in tar:
            if not member.isreg() or member.sparse is not None:
                continue
            content = b""
            if member.name.lower().endswith(tuple(f".{suffix}" for suffix in _TEXTS)):
                file = tar.extractfile(member)
                content = b"" if file is None else file.read(_MOST_TEXT)
            yield member.name, member, content
            tar.members = []  # type: ignore[attr-defined]  # it would keep all headers


def _fields(suffix: str, content: bytes, place: str) -> dict[str, Any]:
    """What a text says: fields of an object in JSON, else one value under the suffix."""
    try:
        if suffix.rpartition(".")[2] != "json":
            return {suffix: content.decode("utf-8-sig").strip()}
        value = parse_json(content)
    except ValueError as error:
        raise InputError(f"{place} cannot be read ({error}); fix it or remove it") from error
    return value if isinstance(value, dict) else {suffix: value}


def _why(shard: Shard) -> str:
    return "it is compressed" if _is_compressed(shard) else "it is truncated or no tar"


def _remedy(shard: Shard) -> str:
    if _is_compressed(shard):
        return "decompress it, so that its images can be read in any order"
    return "copy it again"


def _is_compressed(shard: Shard) -> bool:
    try:
        with shard.file.open("rb") as file:
            return file.read(8).startswith(_COMPRESSED)
    except OSError:
        return False
