"""From the name, path or address of weights to the parameters of one of our models."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tljax.errors import InputError, did_you_mean, redacted
from tljax.models import ImageSize, Model, registry, tracing
from tljax.models.preprocessing import height_width
from tljax.weights import addresses, fitting, folders, rules, unwrapping, zoo
from tljax.weights.families import FAMILIES, TLJAX
from tljax.weights.folders import WeightsFiles
from tljax.weights.read import FORMAT, Contents, read

_log = logging.getLogger("tljax")


@dataclass(frozen=True)
class PretrainedWeights:
    """The arrays of a weights file under our names, not yet fitted to a model.

    Attributes:
      arrays: by path without the collection; with those of the head if the file has one.
      num_classes: of that head; 0 for none.
      family: the naming scheme of the file.
      origin: the name, path or address that was asked for, without secrets.
      resampling: a key of `fitting.RESAMPLINGS`, how the original code resamples position
        embeddings; None: as the family does.
      why_headless: a sentence part that says which head there should be, and what the file holds
        instead, for a source without a head.
    """

    arrays: dict[str, np.ndarray]
    num_classes: int
    family: rules.Family
    origin: str
    resampling: str | None = None
    why_headless: str = ""

    def check_head(self, remedy: str) -> None:
        """Raises InputError, which ends in `remedy`, if there is no head to keep."""
        if not self.num_classes:
            why = f" ({self.why_headless})" if self.why_headless else ""
            raise InputError(f"'{self.origin}' has no head to keep{why}; {remedy}")


def as_path(init_from: str) -> Path | None:
    """Returns `init_from` as a path; None if it is a zoo name or an address."""
    if init_from in zoo.entries() or addresses.is_fetchable(init_from):
        return None
    return Path(os.path.expanduser(init_from))


def absolute(init_from: str) -> str:
    """Returns `init_from` in a form that means the same in any working directory."""
    path = as_path(init_from)
    return init_from if path is None else str(path.absolute())


def fetch(init_from: str, model_name: str) -> WeightsFiles:
    """Returns the files of a zoo name, path or address; downloads what is not in a cache.

    Raises:
      InputError: if there is no such file, it cannot be fetched, or it is known to hold weights of
        another model.
    """
    entry = zoo.entries().get(init_from)
    if entry is not None:
        check_model(init_from, entry.model, model_name)
        return folders.fetch_weights(
            entry.address, sha256=entry.sha256 or None, md5=entry.md5 or None
        )
    path = as_path(init_from)
    if path is not None and not path.exists():
        raise InputError(
            f"there are no weights '{init_from}'{did_you_mean(init_from, zoo.entries())}: it is"
            " neither a file, nor a folder, nor a name that `tljax models` lists"
        )
    return folders.fetch_weights(init_from)


def load(init_from: str, model_name: str, key: str | None = None) -> PretrainedWeights:
    """Reads the pretrained weights of a model.

        pretrained = weights.load("resnet50.tv_in1k", "resnet50")
        variables = weights.variables_for(pretrained, tljax.create("resnet50", 1000), 224)

    Args:
      init_from: a zoo name, a file, a folder that `save_pretrained` wrote, or an address.
      model_name: a key of `tljax.models.MODELS`.
      key: of a file with several networks the one to read, see `unwrapping.find_network`.

    Raises:
      InputError: if they cannot be fetched or read, or are of another model.
    """
    contents = _read_files(fetch(init_from, model_name), redacted(init_from))
    if contents.metadata.get("format") == FORMAT:
        check_model(init_from, contents.metadata.get("model", ""), model_name)
    return convert(contents, model_name, redacted(init_from), key)


def convert(
    contents: Contents, model_name: str, origin: str, key: str | None = None
) -> PretrainedWeights:
    """Renames the tensors of a file to the parameters of a model.

    Every parameter must have its tensors, and every tensor of the network a place in the model.
    What is no part of the network is left out and logged.

    Raises:
      InputError: with all mismatches together.
    """
    model = registry.create(model_name, num_classes=1)
    spec = registry.spec(model_name)
    abstract = tracing.abstract_variables(model, spec.preprocessing.image_size)
    shapes = {path: leaf.shape for path, leaf in rules.flatten(abstract).items()}
    families = [family for family in FAMILIES if family.accepts(model)]
    found = unwrapping.find_network(
        families, model, shapes, contents.tensors, origin, model_name, key
    )
    arrays = rules.convert(found.family, model, shapes, found.tensors, origin)
    for note in found.notes:
        _log.warning("%s", note)
    return PretrainedWeights(
        arrays,
        _head_size(arrays),
        found.family,
        origin,
        contents.metadata.get("resampling"),
        found.why_headless,
    )


def _read_files(files: WeightsFiles, origin: str) -> Contents:
    """The tensors of one file, or of all parts of a file that was cut into several."""
    parts = [read(path) for path in files.paths]
    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        if twice := tensors.keys() & part.tensors.keys():
            raise InputError(f"two files of '{origin}' hold {min(twice)}; fetch them again")
        tensors |= part.tensors
    if missing := files.names - tensors.keys():
        raise InputError(
            f"the files of '{origin}' lack {min(missing)} and {len(missing) - 1} more tensors that"
            " its index names; fetch them again"
        )
    return Contents(tensors, parts[0].metadata)


def from_variables(variables: dict[str, Any], origin: str) -> PretrainedWeights:
    """Makes pretrained weights of a model's variables, e.g. the best ones of a workdir."""
    arrays = {path: np.asarray(leaf) for path, leaf in rules.flatten(variables).items()}
    return PretrainedWeights(arrays, _head_size(arrays), TLJAX, redacted(origin))


def variables_for(
    weights: PretrainedWeights,
    model: Model,
    image_size: ImageSize,
    channels: int = 3,
    position_resampling: str | None = None,
) -> dict[str, Any]:
    """Fits pretrained weights to a model, an image size and a number of channels.

    Args:
      weights: of the same architecture; the model may be truncated.
      model: the model that will use them.
      image_size: of its images.
      channels: of its images.
      position_resampling: a key of `fitting.RESAMPLINGS`; None: as the original code does it.

    Returns:
      {"params": ..., "batch_stats": ...}, with the head of the weights if they have one.
    """
    shape = (*height_width(image_size), channels)
    abstract = tracing.abstract_variables(model, shape)
    shapes = {path: leaf.shape for path, leaf in rules.flatten(abstract).items()}
    head = {p: array.shape for p, array in weights.arrays.items() if p.startswith("head/")}
    fitted = fitting.fit(
        weights.arrays,
        {**shapes, **head},
        registry.patch_grid(model, image_size),
        position_resampling or weights.resampling or weights.family.resampling,
        weights.origin,
    )
    return rules.unflatten(fitted)


def check_model(init_from: str, stored: str, wanted: str) -> None:
    """Raises InputError if weights of the model `stored` do not fit the model `wanted`.

    The names may differ if the network is the same, e.g. DeiT's and ViT's.
    """
    a, b = registry.spec(stored), registry.spec(wanted)
    if (a.family, a.arguments) != (b.family, b.arguments):
        raise InputError(
            f"'{init_from}' holds a {stored}, but model is {wanted}; set --config.model={stored},"
            " or another init_from"
        )


def _head_size(arrays: dict[str, np.ndarray]) -> int:
    """The number of classes of the head; 0 for none."""
    bias = arrays.get("head/bias")
    return 0 if bias is None else len(bias)
