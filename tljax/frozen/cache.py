"""The output of the leading frozen groups, computed once per image and kept.

Those groups are a fixed function of the image. A run whose images do not change from epoch to epoch
(no augmentation, or a number of fixed views) can therefore begin every step at the first group that
trains. An entry has one row for each image of a data set; rows are computed when a run needs them,
and runs that differ in seed, split, size or learning rate share them. Entries are keyed by
everything that affects their values, so a stale one cannot be read. On the disk each row has a
checksum, so a damaged one is computed again.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax import locks
from tljax.console import console, progress_bar, warn_once
from tljax.data import Preprocessing, Source, Subset, eval_batches, fingerprint, normalise
from tljax.data.labels import batch_of, label_at
from tljax.data.pipeline import SKIPPED, EvalBatches, TrainBatches, ordered_batches, sampled_batches
from tljax.data.sources import unwrap_subset, weights_of
from tljax.devices import micro_batches, processes
from tljax.devices.compiler import compiled
from tljax.errors import InputError
from tljax.files import cache_folder
from tljax.frozen.over_images import BATCH
from tljax.models import Model, tracing
from tljax.models.flops import flops
from tljax.models.groups import leaf_paths
from tljax.runs.environment import environment
from tljax.runs.stored_rows import StoredRows
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree

_DISK_SHARE = 0.5  # of the free disk space that an entry may take
_MEMORY_SHARE = 0.25  # of the machine's memory


@dataclass(frozen=True)
class CachedSource(Source):
    """The output of the frozen groups for the images of a source.

    Attributes:
      groups: number of frozen groups.
      features: (m, ...) float32, of the whole data set that the source is a part of.
      rows: int (n,), the rows of the source's images in `features`.
      labels: (n,) or (n, m), see `tljax.data.labels`.
      weights: float32 (n,), of the images in the loss; None: all count the same.
    """

    groups: int
    features: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Any:
        return {"features": self.features[self.rows[index]], "label": label_at(self.labels, index)}

    def shuffled(
        self,
        batch_size: int,
        seed: int,
        views: int = 1,
        rows: np.ndarray | None = None,
        sampling: str = "shuffled",
    ) -> TrainBatches:
        """Like `train_batches` of the images, in the same order, with `features` for `image`."""

        def read(indices: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
            indices = indices if rows is None else indices[rows]
            batch = {**self._batch(indices), SKIPPED: ()}
            return batch if self.weights is None else {**batch, "weight": self.weights[indices]}

        made_from = {"images": len(self), "batch_size": batch_size, "seed": seed}
        labels = self.labels[: len(self) // views]
        return sampled_batches(labels, read, batch_size, seed, 0, made_from, views, sampling)

    def in_order(self, batch_size: int, rows: np.ndarray | None = None) -> EvalBatches:
        """Like `eval_batches` of the images, with `features` for `image`."""
        places = np.arange(batch_size) if rows is None else rows

        def read(start: int) -> dict[str, Any]:
            indices = start + places
            inside = indices < len(self)
            batch = self._batch(np.where(inside, indices, 0))
            return {**batch, "mask": inside.astype(np.float32), SKIPPED: ()}

        return ordered_batches(len(self), read, batch_size)

    def _batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        features = np.array(self.features[self.rows[indices]])
        return {"features": features, "label": batch_of(self.labels[indices])}


@dataclass(frozen=True)
class Cache:
    """Where a run caches the output of its first groups.

    Attributes:
      groups: number of groups; 0: nothing is cached.
      folder: of the entries; None: memory.
    """

    groups: int
    folder: Path | None = None

    def through(
        self,
        model: Model,
        variables: Tree,
        preprocessing: Preprocessing,
        source: Source,
        between_batches: Callable[[], None],
    ) -> CachedSource:
        """The output of those groups for a source; see `cached`."""
        return cached(
            model, variables, preprocessing, self.groups, source, self.folder, between_batches
        )


def check(kind: str, groups: int, images_change: bool) -> None:
    """Raises InputError if a cache is asked for and there is nothing to cache."""
    if kind in ("memory", "disk") and (images_change or not groups):
        why = "images are augmented anew in every epoch" if groups else "the first group trains"
        raise InputError(f"cache is {kind}, but {why}, so nothing can be cached; set it to auto")


def choose(
    kind: str,
    model: Model,
    plan: TransferPlan,
    preprocessing: Preprocessing,
    sources: list[Source],
    *,
    images_change: bool,
    on_disk: bool,
    cached_before: int | None,
    log: bool,
) -> Cache:
    """Decides whether and where a run caches the output of its frozen groups.

    Args:
      kind: `auto`, `memory`, `disk` or `off`.
      model, plan, preprocessing, sources: of the run.
      images_change: whether images differ from epoch to epoch, so that nothing can be cached.
      on_disk: whether `auto` may write to the disk, which it does where it can.
      cached_before: number of groups that were cached when the run began, which stays; None: the
        run begins.
      log: whether to say on stderr what is done.

    Raises:
      InputError: if `memory` or `disk` is asked for and there is no room, or the disk cannot be
        written to.
    """
    variables = tracing.abstract_variables(model, preprocessing.image_shape)
    groups = plan.frozen_prefix(variables["params"])
    if kind == "off" or cached_before == 0:
        return Cache(0)
    if not groups or images_change:
        if groups and log:
            share = _share(model, variables, preprocessing, groups)
            console.print(
                f"the first {groups} of {len(model.groups)} groups"
                + ("" if share is None else f", with {share:.0%} of the forward pass,")
                + " are frozen: with augment=none, or fixed views=n of each image, without mixup"
                " and cutmix, and with on_error=fail, their output would be computed once"
            )
        return Cache(0)
    folder = find_folder(kind, on_disk)
    row = 4 * tracing.abstract_output(model, preprocessing.image_shape, groups).size
    needed = row * sum(len(source) for source in sources)
    fits = needed <= _room(folder)
    fits = all(processes.gather_values(bool(fits)))  # each process has a cache of its own
    if not fits and kind != "auto" and cached_before is None:
        raise InputError(
            f"cache is {kind}, but {needed:,} bytes of features do not fit (room for"
            f" {_room(folder):,}); set it to auto or off"
        )
    if log:
        console.print(
            f"the output of the first {groups} of {len(model.groups)} groups, which are frozen, "
            + (f"is cached in {folder or 'memory'}" if fits else "does not fit, and is not cached")
            + f": up to {needed / 1e6:,.1f} MB"
        )
    return Cache(groups, folder) if fits or cached_before else Cache(0)


def _share(
    model: Model, variables: Tree, preprocessing: Preprocessing, groups: int
) -> float | None:
    """Share of the forward pass's FLOPs that the first groups take, by XLA's count; runs nothing.

    None where JAX may not use the CPU, whose compiler counts.
    """
    image = jax.ShapeDtypeStruct((1, *preprocessing.image_shape), jnp.float32)

    def counted(stop: int | None) -> float:
        run = functools.partial(model.apply, train=False, stop=stop)
        return flops(run, variables, image)

    try:
        return counted(groups) / counted(None)
    except InputError:
        return None


def find_folder(kind: str, on_disk: bool) -> Path | None:
    """Where the entries of `auto`, `memory` or `disk` are; None: in memory, as for `off`.

    With `off` nothing is kept, but a head that a run starts from is still solved on features.
    """
    if kind in ("memory", "off") or (kind == "auto" and not on_disk):
        return None
    folder = cache_folder("features")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as probe, locks.hold(Path(probe) / ".lock"):
            return folder
    except OSError as error:
        why = f"cannot write to {folder} ({error.strerror or error})"
        remedy = "set XDG_CACHE_HOME to a folder that can be written to"
        if kind == "disk":
            raise InputError(
                f"cache is disk, but tljax {why}; {remedy}, or cache to auto"
            ) from None
        warn_once(f"{why}, so features are cached in memory, for this run alone; {remedy}")
        return None


def _room(folder: Path | None) -> int:
    """Bytes that features may take on the disk, or in memory if `folder` is None."""
    if folder is None:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(_MEMORY_SHARE * total)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return int(_DISK_SHARE * shutil.disk_usage(existing).free)


def cached(
    model: Model,
    variables: Tree,
    preprocessing: Preprocessing,
    groups: int,
    source: Source,
    folder: Path | None,
    between_batches: Callable[[], None] = lambda: None,
) -> CachedSource:
    """The output of the first groups for a source; rows that are missing are computed.

    Processes of one job do not wait for each other here: each computes what it does not find, on
    one of its devices.

    Args:
      model, variables, preprocessing: of the run.
      groups: number of groups.
      source: train, val or test.
      folder: of the entries; None: memory.
      between_batches: called before each batch; what it raises ends the computation. Rows that are
        on the disk by then stay.

    Raises:
      InputError: if an image cannot be read, or the disk is full.
    """
    shape = tracing.abstract_output(model, preprocessing.image_shape, groups).shape[1:]
    variables = jax.device_put(variables)  # once, and not with every batch
    prefix = _prefix(model, preprocessing, groups)

    def compute(source: Source, store: Callable[[int, np.ndarray], None]) -> None:
        batches = eval_batches(source, preprocessing, batch_size=BATCH)
        with closing(iter(batches)) as reader, progress_bar() as bar:
            done = 0
            task = bar.add_task("caching frozen groups", total=len(source))
            for batch in reader:
                between_batches()
                rows = np.asarray(prefix(variables, batch["image"], batch["mask"]))
                rows = rows[: len(source) - done]
                store(done, rows)
                done += len(rows)
                bar.update(task, completed=done)

    if folder is None:
        features = np.empty((len(source), *shape), np.float32)

        def keep(start: int, values: np.ndarray) -> None:
            features[start : start + len(values)] = values

        compute(source, keep)
        rows = np.arange(len(source))
        return CachedSource(groups, features, rows, source.labels, weights_of(source))
    base, rows = unwrap_subset(source)
    key = {
        "prefix": digest_of_prefix(model, variables, groups),
        "model": repr(_without_head(model)),
        "groups": groups,
        "preprocessing": asdict(preprocessing),
        "data": fingerprint(base),
        "environment": environment(),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    entry = folder / name
    features = _fill(entry, key, (len(base), *shape), base, rows, compute, between_batches)
    return CachedSource(groups, features, rows, source.labels, weights_of(source))


@functools.cache
def _prefix(
    model: Model, preprocessing: Preprocessing, groups: int
) -> Callable[[Tree, np.ndarray, np.ndarray], jax.Array]:
    """The compiled first groups: (variables, images uint8, mask) -> features float32 (n, ...)."""

    def prefix(variables: Tree, images: jax.Array, mask: jax.Array) -> jax.Array:
        def run(images: jax.Array) -> jax.Array:
            x = normalise(images, preprocessing)
            result: Any = model.apply(variables, x, train=False, stop=groups)
            return result.astype(jnp.float32)

        shape = preprocessing.image_shape
        parts = micro_batches.choose_parts(model, shape, len(images), stop=groups)
        return micro_batches.map_in_parts(run, parts, images, mask)

    return compiled(prefix)


def _fill(
    entry: Path,
    key: dict[str, Any],
    shape: tuple[int, ...],
    base: Source,
    rows: np.ndarray,
    compute: Callable[[Source, Callable[[int, np.ndarray], None]], None],
    between_batches: Callable[[], None],
) -> np.ndarray:
    """Computes the rows that an entry lacks, one process at a time; returns all rows."""
    try:
        entry.mkdir(parents=True, exist_ok=True)
        with locks.wait_for(entry / ".lock", between_batches):
            if not (entry / "key.json").exists():  # for people
                (entry / "key.json").write_text(json.dumps(key, indent=2) + "\n")
            stored = StoredRows(entry, shape)
            missing = stored.missing(rows, between_batches)
            if len(missing):

                def keep(start: int, values: np.ndarray) -> None:
                    stored.write(missing[start : start + len(values)], values)

                compute(Subset(base, missing), keep)
            return stored.values()
    except OSError as error:
        raise InputError(
            f"cannot cache features in {entry} ({error.strerror or error}); make room, or set cache"
            " to memory or off"
        ) from error


def _without_head(model: Model) -> Model:
    """The model without what does not affect its frozen groups: head, dropout, remat."""
    changes: dict[str, Any] = {"num_classes": 0, "drop_path": 0.0, "dropout": 0.0, "remat": False}
    return model.clone(**{name: v for name, v in changes.items() if hasattr(model, name)})


def digest_of_prefix(model: Model, variables: Tree, groups: int) -> str:
    """SHA-256 over the variables of the first `groups` groups."""
    digest = hashlib.sha256()
    for collection, tree in sorted(variables.items()):
        for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
            if model.groups.depth(path) < groups:
                array = np.ascontiguousarray(leaf)
                digest.update(f"{collection}/{path} {array.dtype} {array.shape}".encode())
                digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
