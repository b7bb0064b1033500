"""Which image belongs to which split, kept with a run, so that the split stays what it was.

The split of data without test images follows from the number and order of its images. Adding,
removing or renaming images would move others from one split to another, e.g. from training to
test. A run therefore keeps, for every image it uses, its name, the digest of its content and its
split. Whatever reads the data of the run later finds the images again by their content. Images
that were added since are in no split. This holds for folders and for tables of any form. Of other
data one fingerprint for each split is kept, and other images are refused.
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tljax.console import warn_once
from tljax.data.digests import content_digests
from tljax.data.folder import FolderSource
from tljax.data.layout import find_root
from tljax.data.listing import find_files
from tljax.data.packed import ImageFile, is_there
from tljax.data.sources import Dataset, Source, Subset, fingerprint, unwrap_subset
from tljax.data.table import SCHEMES, check_place, listed, number_groups
from tljax.data.table.labels import label_from, shown
from tljax.data.table.rows import Row
from tljax.errors import InputError, printable

_log = logging.getLogger("tljax")

SPLITS = ("train", "val", "test")
_CALLED = {"train": "training", "val": "validation", "test": "test"}
_DIGITS = 32  # hex digits that are kept of a SHA-256

Kept = Mapping[str, Any]  # JSON: what `describe` returns for one data set


def describe(dataset: Dataset) -> list[Kept]:
    """Returns what a run keeps of its data set, or of each of the data sets that were joined.

    Returns:
      For each data set JSON with `classes`, names in the order of the labels; `train_counts`,
      training images of each class (none of numbers); `unused`, images of a folder or table that
      are in no split; and `splits`. A split of these is a list of [name, digest, label]; of other
      data, the fingerprint of its images. A split that the data lacks is None.
    """
    return [_describe_one(part) for part in dataset.parts or (dataset,)]


def restore(
    name: str,
    kept: Kept,
    load: Callable[[], Dataset],
    deep_images: str = "full_range",
    channels: int | None = None,
) -> Dataset:
    """Returns a data set with the splits that a run began with.

    Args:
      name: Of the data set, as in a config's `data`.
      kept: What `describe` returned when the run began.
      load: Returns the data set as it would be split today.
      deep_images, channels: As `deep` and `channels` of `images.decode`.

    Returns:
      The data set of today if nothing has changed. Otherwise the images that are kept, in their
      order. One that is gone has a path that does not exist. A warning counts those, and the
      images that are in no split.

    Raises:
      InputError: The folder or table is gone; or the data is neither, and has other images by now.
    """
    if any(isinstance(split, str) for split in kept["splits"].values()):
        dataset = load()
        _refuse_other_images(name, kept, dataset)
        return dataset
    look = _look_at(name)
    try:
        dataset = load()
        unchanged = _describe_one(dataset) == kept
    except InputError:  # e.g. a class is gone
        unchanged = False
    return dataset if unchanged else _find_again(name, kept, look(), deep_images, channels)


class _Today(NamedTuple):
    """Where a data set lies today, its images, and of a table their rows."""

    root: Path
    files: Sequence[ImageFile]
    rows: Mapping[ImageFile, Row]
    groups: Mapping[ImageFile, int]


def _of_table(rows: Sequence[Row]) -> _Today:
    files = [row.file for row in rows]
    numbers = number_groups(rows)
    groups = {} if numbers is None else dict(zip(files, numbers.tolist(), strict=True))
    return _Today(Path(), files, dict(zip(files, rows, strict=True)), groups)


def _look_at(name: str) -> Callable[[], _Today]:
    """Returns a function that lists the images of a data set as it is today.

    Raises:
      InputError: The folder, or the table, is gone.
    """
    scheme, _, rest = name.partition(":")
    try:
        if scheme in SCHEMES:
            check_place(rest, scheme)
            return lambda: _of_table(listed(rest, scheme).rows)
        root = find_root(rest)
    except InputError as error:
        raise InputError(f"{error}; if the data has moved, name its new place") from None
    return lambda: _Today(root, find_files(root).images, {}, {})


def is_kept(content: Any) -> bool:
    """Whether a JSON value is what `describe` returns for a data set."""
    fields = ("classes", "train_counts", "unused", "splits")
    if not isinstance(content, dict) or any(field not in content for field in fields):
        return False
    splits = content["splits"]
    return isinstance(splits, dict) and set(splits) == set(SPLITS)


def same_images(dataset: Dataset, kept: Sequence[Kept]) -> bool:
    """Whether all splits hold the same images as when the run began."""
    now = describe(dataset)
    pairs = zip(now, kept, strict=False)
    return len(now) == len(kept) and all(a["splits"] == b["splits"] for a, b in pairs)


def leave_out_seen(dataset: Dataset, kept: Sequence[Kept]) -> Dataset:
    """Returns a data set without the images that a run was fitted on; a warning counts them.

    Of the test images those are left out that were among the run's training or validation images,
    of the validation images those among its training images. Only folders and tables can be
    compared.

    Raises:
      InputError: No image of a split would be left.
    """
    replaced: dict[str, Any] = {}
    for split, seen in seen_images(dataset, kept).items():
        count = f"{seen.sum()} of the {len(seen)} {split} images of '{dataset.name}'"
        if seen.all():
            raise InputError(f"{count} are images that the run was fitted on; give other data")
        warn_once(f"{count} are images that the run was fitted on: they are left out")
        replaced[split] = Subset(getattr(dataset, split), np.flatnonzero(~seen))
    return replace(dataset, **replaced)


def seen_images(dataset: Dataset, kept: Sequence[Kept]) -> dict[str, np.ndarray]:
    """Finds the images of a data set that a run was fitted on, see `leave_out_seen`.

    Returns:
      For `val` and `test`, where they hold such images: bool (n,), whether each image is one.
    """
    trained_on = _digests(kept, "train")
    fitted_on = {"val": trained_on, "test": trained_on | _digests(kept, "val")}
    found = {}
    for split, digests in fitted_on.items():
        source = getattr(dataset, split)
        base, rows = unwrap_subset(source) if source is not None else (None, np.empty(0, int))
        if isinstance(base, FolderSource) and digests:
            seen = np.array([digest[:_DIGITS] in digests for digest in base.digests(rows)], bool)
            if seen.any():
                found[split] = seen
    return found


def warn_of_copies(dataset: Dataset, described: Sequence[Kept]) -> None:
    """Warns of images with the same content in two splits, and of those with two labels.

    Equal numbers are asked of no copies: a thing may be measured twice. Reads no file.

    Args:
      dataset: The data.
      described: What `describe` returned for it.
    """
    of_parts = []
    for kept in described:
        splits = {name: kept["splits"][name] for name in SPLITS}
        of_parts.append({name: some for name, some in splits.items() if isinstance(some, list)})
    for part, lists in zip(dataset.parts or (dataset,), of_parts, strict=True):
        others = [
            image for other in of_parts if other is not lists for image in other.get("train", ())
        ]
        _warn_of_other_tasks(part.name, others, lists)
        for pair in (("train", "val"), ("train", "test"), ("val", "test")):
            if pair[0] in lists and pair[1] in lists:
                _warn_of_shared(part.name, *pair, *(lists[split] for split in pair))
        if part.kind != "regression":
            _warn_of_two_labels(part, [image for images in lists.values() for image in images])


def _warn_of_shared(
    name: str, before: str, split: str, earlier: Sequence[Any], images: Sequence[Any]
) -> None:
    """Warns of images of a split that are among those of one before it."""
    if copies := _copies(earlier, images):
        image, original = map(printable, copies[0])
        early, late = _CALLED[before], _CALLED[split]
        warn_once(
            f"{len(copies):,} of the {len(images):,} {late} images of {printable(name)} are"
            f" byte-identical to {early} images, e.g. the {late} image '{image}' to the {early}"
            f" image '{original}'; remove one of each, as they make the {late} figures too good"
        )


def _copies(earlier: Sequence[Any], images: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Of the images whose content is among earlier ones: each, and the first of those."""
    first = {digest: image for image, digest, _ in reversed(earlier)}
    return [(image, first[digest]) for image, digest, _ in images if digest and digest in first]


def _warn_of_other_tasks(name: str, others: Sequence[Any], lists: Mapping[str, list[Any]]) -> None:
    """Warns of images of a split that are training images of another task: the network sees all."""
    for split in ("val", "test"):
        images = lists.get(split, [])
        if found := _copies(others, images):
            late = _CALLED[split]
            warn_once(
                f"{len(found):,} of the {len(images):,} {late} images of {printable(name)} are"
                f" byte-identical to training images of another task, e.g."
                f" '{printable(found[0][0])}'; split all tasks alike, as they make the {late}"
                " figures too good"
            )


def _warn_of_two_labels(dataset: Dataset, images: Sequence[Any]) -> None:
    """Warns of contents that have two labels."""
    first: dict[str, tuple[str, Any]] = {}
    contradicted: dict[str, tuple[str, Any]] = {}
    for image, digest, label in images:
        if digest and first.setdefault(digest, (image, label))[1] != label:
            contradicted.setdefault(digest, (image, label))
    if contradicted:
        digest, other = next(iter(contradicted.items()))
        names = dataset.class_names
        one, two = (
            f"'{printable(image)}' ({printable(shown(label_from(label, names)))})"
            for image, label in (first[digest], other)
        )
        warn_once(
            f"{len(contradicted):,} images of {printable(dataset.name)} are there more than once,"
            f" with different labels, e.g. {one} and {two}; keep the right one"
        )


def without_missing(source: Source) -> Source:
    """Returns the images that are still there; `restore` has counted those that are not."""
    base, rows = unwrap_subset(source)
    if not isinstance(base, FolderSource):
        return source
    there = [is_there(base.files[row]) for row in rows]
    return source if all(there) else Subset(base, rows[there])


def _find_again(
    name: str, kept: Kept, today: _Today, deep_images: str, channels: int | None
) -> Dataset:
    """The kept images, wherever they are in the folder by now, and whatever they are called."""
    matched = _match(kept, today)
    _report(name, kept, matched, len(today.files))
    alone = itertools.count(len(today.files))  # groups of images that are gone
    sources: dict[str, Source | None] = dict.fromkeys(SPLITS)
    for split, paths in matched.paths.items():
        together = weights = None
        if today.groups:
            together = np.array([today.groups.get(path, next(alone)) for path in paths])
        if any(row.weight is not None for row in today.rows.values()):
            weights = np.array([_weight(today.rows.get(path)) for path in paths], np.float32)
        names, _, labels = zip(*kept["splits"][split], strict=True)
        how = (deep_images, together, weights, channels)
        sources[split] = FolderSource(paths, labels, names, *how)
    train, val, test = (sources[split] for split in SPLITS)
    assert train is not None
    return Dataset(name, tuple(kept["classes"]), train, val, test)


class _Matched(NamedTuple):
    """Where the kept images are today.

    Attributes:
      paths: of the images of each split, in their order; of one that is gone, one that does not
        exist.
      missing: names of the images that are gone, of each split that lacks any.
      elsewhere: number of images in another class folder, or in one with another name.
      relabelled: number of images of a table that have another label there.
    """

    paths: dict[str, list[ImageFile]]
    missing: dict[str, list[str]]
    elsewhere: int
    relabelled: int


def _match(kept: Kept, today: _Today) -> _Matched:
    """Finds the kept images among those of today, by their content."""
    by_content: dict[str, list[ImageFile]] = defaultdict(list)
    for file, digest in zip(today.files, content_digests(today.files), strict=True):
        by_content[digest[:_DIGITS]].append(file)
    found: dict[str, list[ImageFile]] = {}
    missing: dict[str, list[str]] = {}
    elsewhere = relabelled = 0
    for split, images in kept["splits"].items():
        if images is None:
            continue
        found[split] = []
        for image, digest, label in images:
            same = by_content.get(digest, [])
            # Of several copies the one with the kept name is taken; their contents are the same.
            path = next((p for p in same if _is_called(p, image, today.rows)), None)
            path = path or next(iter(same), None)
            if path is None:
                missing.setdefault(split, []).append(image)
            else:
                same.remove(path)
                if path in today.rows:
                    there = today.rows[path].label
                    relabelled += there != label_from(label, kept["classes"])
                elif isinstance(path, Path):
                    elsewhere += kept["classes"][label] not in path.relative_to(today.root).parts
            # Never the kept path itself: another image may be there by now.
            found[split].append(path or today.root / f"{image} (as it was when the run began)")
    return _Matched(found, missing, elsewhere, relabelled)


def _weight(row: Row | None) -> float:
    return 1.0 if row is None or row.weight is None else row.weight


def _is_called(path: ImageFile, image: str, rows: Mapping[ImageFile, Row]) -> bool:
    if path in rows:
        return rows[path].name == image
    return isinstance(path, Path) and path.as_posix().endswith(f"/{image}")


def _report(name: str, kept: Kept, matched: _Matched, count: int) -> None:
    """Warns of images that are gone, relabelled, in another class folder, or in no split.

    Args:
      name, kept, matched: of the data set.
      count: number of its images today.
    """
    if matched.relabelled:
        _log.warning(
            "%d images of '%s' have other labels than when the run began; they keep the label that"
            " they had",
            *(matched.relabelled, name),
        )
    if matched.elsewhere:
        _log.warning(
            "%d images of '%s' are in other class folders than when the run began; they keep the"
            " class that they had",
            *(matched.elsewhere, name),
        )
    gone = {split: len(images) for split, images in matched.missing.items()}
    if gone:
        counts = ", ".join(f"{number} {split}" for split, number in gone.items())
        first = printable(next(iter(matched.missing.values()))[0])
        _log.warning("'%s' lacks images of the run: %s, e.g. %s", name, counts, first)
    unused = count + sum(gone.values()) - sum(map(len, matched.paths.values()))
    if unused != kept["unused"]:
        _log.warning(
            "%d images of '%s' are in no split of the run (%d when it began); they are not used",
            unused,
            name,
            kept["unused"],
        )


def _refuse_other_images(name: str, kept: Kept, dataset: Dataset) -> None:
    now = _describe_one(dataset)["splits"]
    if changed := [split for split in SPLITS if now[split] != kept["splits"][split]]:
        raise InputError(
            f"the {' and '.join(changed)} images of '{name}' are not those that the run began"
            " with; restore them, or name other data explicitly"
        )


def _digests(kept: Sequence[Kept], split: str) -> set[str]:
    """The digests of the images of a split; none of data that is no folder and no table."""
    lists = [one["splits"][split] for one in kept]
    return {digest for images in lists if isinstance(images, list) for _, digest, _ in images}


def _describe_one(dataset: Dataset) -> Kept:
    labels, counts = dataset.train.labels, []
    if dataset.kind == "classes":
        counts = np.bincount(labels, minlength=dataset.num_classes).tolist()
    elif dataset.kind == "multi_label":
        counts = labels.sum(axis=0, dtype=int).tolist()
    return {
        "classes": list(dataset.class_names),
        "train_counts": counts,
        "unused": _count_unused(dataset),
        "splits": {split: _describe_split(getattr(dataset, split)) for split in SPLITS},
    }


def _describe_split(source: Source | None) -> list[list[Any]] | str | None:
    if source is None:
        return None
    base, rows = unwrap_subset(source)
    if not isinstance(base, FolderSource):
        return fingerprint(source)
    return [
        [base.names[row], digest[:_DIGITS], base.labels[row].tolist()]
        for row, digest in zip(rows.tolist(), base.digests(rows), strict=True)
    ]


def _count_unused(dataset: Dataset) -> int:
    """Number of images of the data that are in no split, e.g. beyond `train_size`."""
    bases: dict[int, int] = {}
    used = 0
    for split in SPLITS:
        source = getattr(dataset, split)
        if source is not None:
            base, rows = unwrap_subset(source)
            bases[id(base)] = len(base)
            used += len(rows)
    return sum(bases.values()) - used
