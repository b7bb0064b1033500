"""Source models to choose among: from what a user types to networks with weights."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tljax import weights
from tljax.errors import InputError, did_you_mean, redacted
from tljax.experiment import (
    load,
    read_config,
    read_source,
    source_preprocessing,
    source_workdir,
    tasks_of,
)
from tljax.models import ImageSize, Model, Preprocessing, registry
from tljax.models.model import parameter_count
from tljax.transfer.partition import Tree
from tljax.weights import addresses, folders, zoo
from tljax.weights.read import FORMAT, read_metadata

_log = logging.getLogger("tljax")

RANDOM = "random"  # in place of a file: no weights, for comparison


@dataclass(frozen=True)
class Candidate:
    """A source model that may be chosen; nothing of it is read yet.

    Attributes:
      name: as typed, without secrets.
      model: a key of `tljax.models.MODELS`.
      init_from: its weights; None: random ones.
      last_group: of a workdir whose network ends early, its last block.
      top1: published ImageNet-1k accuracy in percent, where it is known.
    """

    name: str
    model: str
    init_from: str | None
    last_group: str | None = None
    top1: float | None = None


@dataclass(frozen=True)
class SourceNetwork:
    """A network with its weights.

    Attributes:
      model, variables, preprocessing: of the network.
      parameters: number of them, without the head.
      head: (kernel (d, classes), bias (classes,)) of the source task; None if it is not known.
    """

    model: Model
    variables: Tree
    preprocessing: Preprocessing
    parameters: int
    head: tuple[np.ndarray, np.ndarray] | None


def find_candidates(words: Iterable[str]) -> list[Candidate]:
    """Reads the names of source models.

        find_candidates(["resnet50.*", "vit_small_patch14_dinov2=dinov2.safetensors"])
        find_candidates(["runs/glyphs,resnet10_32=random"])

    Args:
      words: each holds names with commas between: names that `tljax models` lists, patterns of
        them with `*`, `MODEL=WEIGHTS` with a file, folder, address or `random`, workdirs of runs,
        and files that tljax wrote.

    Returns:
      The models, in the order of the names, each once.

    Raises:
      InputError: if a name or pattern stands for no model.
    """
    named = [candidate for word in _split(words) for candidate in _candidates(word)]
    found = list(dict.fromkeys(named))
    if not found:
        raise InputError("--models names no model; give names that `tljax models` lists")
    if repeated := len(named) - len(found):
        _log.warning("%d of %d models are named before; each is ranked once", repeated, len(named))
    return found


@contextmanager
def errors_name(candidate: Candidate) -> Iterator[None]:
    """Puts the model's name in front of an InputError of the block."""
    try:
        yield
    except InputError as error:
        text = str(error)
        named = text if f"'{candidate.name}'" in text else f"cannot rank '{candidate.name}': {text}"
        raise InputError(named) from error


def check_image_size(candidate: Candidate, image_size: ImageSize | None) -> None:
    """Raises InputError if a model cannot take images of this size; reads no weights."""
    if image_size is not None:
        model = registry.create(candidate.model, num_classes=0)
        with errors_name(candidate):
            registry.check_image_size(candidate.model, model, image_size)


def fetch(candidate: Candidate) -> None:
    """Downloads a model's weights, unless they lie here.

    Raises:
      InputError: if they cannot be fetched; it names the model.
    """
    if candidate.init_from is None or source_workdir(candidate.init_from) is not None:
        return
    with errors_name(candidate):
        weights.fetch(candidate.init_from, candidate.model)


def load_network(candidate: Candidate, image_size: ImageSize | None = None) -> SourceNetwork:
    """Reads a model's weights.

    Args:
      candidate: the model.
      image_size: of the images; None: the source's own, else the model's.

    Raises:
      InputError: if the weights cannot be read, do not fit, or cannot take such images.
    """
    name, init_from = candidate.model, candidate.init_from
    if init_from is None:
        model, variables, preprocessing = load(name, num_classes=0, image_size=image_size)
        size = parameter_count(variables["params"])
        return SourceNetwork(model, variables, preprocessing, size, None)
    source = read_source(init_from, name)
    model = registry.create(name, source.num_classes)
    if candidate.last_group is not None:
        model = registry.truncate(name, model, candidate.last_group)
    preprocessing = _preprocessing(candidate, image_size)
    registry.check_image_size(name, model, preprocessing.image_size)
    model = registry.at_image_size(model, preprocessing.image_size)
    variables = weights.variables_for(source, model, preprocessing.image_size)
    head = variables["params"].get("head")
    size = parameter_count(variables["params"]) - parameter_count(head)
    workdir = source_workdir(init_from)
    tasks = () if workdir is None else tasks_of(workdir)
    if len(tasks) > 1 or any(task.kind != "classes" for task in tasks):
        head = None  # whose classes do not exclude each other
    kept = None if head is None else (np.asarray(head["kernel"]), np.asarray(head["bias"]))
    return SourceNetwork(model, variables, preprocessing, size, kept)


def _preprocessing(candidate: Candidate, image_size: ImageSize | None) -> Preprocessing:
    """As the source prepared its images, else as its model usually does, which is logged."""
    found = source_preprocessing(candidate.init_from)
    if found is None:
        found = registry.spec(candidate.model).preprocessing
        _log.warning(
            "it is not known how the images of '%s' were normalised; taking %s, as %s does",
            candidate.name,
            found.normalisation,
            candidate.model,
        )
    found = found.for_channels(3)  # which is what data sets give
    return found if image_size is None else replace(found, image_size=image_size)


def _split(words: Iterable[str]) -> Iterator[str]:
    """The names in words; one that exists as a path is not cut at its commas."""
    for word in words:
        if _is_there(word):
            yield word
        else:
            yield from filter(None, (part.strip() for part in word.split(",")))


def _candidates(word: str) -> list[Candidate]:
    """The models that one name or pattern stands for."""
    if (entry := zoo.entries().get(word)) is not None:
        return [_of_entry(entry)]
    if _is_there(word):
        return [_on_the_disk(word)]
    if addresses.is_fetchable(word):
        raise InputError(
            f"the address '{redacted(word)}' does not say which model it holds; write MODEL=ADDRESS"
        )
    model, equals, source = word.partition("=")
    if equals:
        return [_with_model(model, source)]
    if any(mark in word for mark in "*?["):
        return [_of_entry(entry) for entry in zoo.find(word)]
    known = zoo.entries()
    if word in registry.MODELS:
        own = [entry.name for entry in known.values() if entry.model == word]
        named = f", e.g. {own[0]}" if own else ""
        raise InputError(
            f"'{word}' is a model without weights; name weights of it{named}, or write"
            f" {word}=FILE, or {word}={RANDOM}"
        )
    raise InputError(
        f"there is no source model '{redacted(word)}'{did_you_mean(word, known)}: it is neither a"
        " name that `tljax models` lists, nor a workdir, nor a file; for weights of other software"
        " write MODEL=FILE"
    )


def _is_there(word: str) -> bool:
    return not addresses.is_fetchable(word) and os.path.lexists(os.path.expanduser(word))


def _of_entry(entry: zoo.ZooEntry) -> Candidate:
    return Candidate(entry.name, entry.model, entry.name, top1=entry.top1)


def _with_model(model: str, source: str) -> Candidate:
    """`MODEL=WEIGHTS`."""
    if model not in registry.MODELS:
        raise InputError(
            f"there is no model '{model}'{did_you_mean(model, registry.MODELS)}, which '{model}="
            f"{redacted(source)}' names; `tljax models` lists models of which there are weights"
        )
    if source == RANDOM:
        return Candidate(f"{model}={RANDOM}", model, None)
    entry = zoo.entries().get(source)
    if entry is not None:
        weights.check_model(source, entry.model, model)
        return _of_entry(entry)
    if not addresses.is_fetchable(source) and not _is_there(source):
        raise InputError(
            f"there are no weights '{source}' for {model}{did_you_mean(source, zoo.entries())};"
            f" give a file, a folder, a name that `tljax models` lists, or {RANDOM}"
        )
    workdir = source_workdir(source)
    if workdir is not None:
        weights.check_model(source, read_config(workdir).model, model)
        return _on_the_disk(source)
    return Candidate(f"{model}={redacted(source)}", model, source)


def _on_the_disk(path: str) -> Candidate:
    """A workdir, or a file that says which model it holds."""
    found = model_on_disk(path)
    if found is None:
        raise InputError(
            f"'{path}' does not say which model it holds; write MODEL={path}, e.g. resnet50={path}"
        )
    model, last_group = found
    return Candidate(path, model, path, last_group)


def model_on_disk(path: str) -> tuple[str, str | None] | None:
    """The model of a workdir or of a file that tljax wrote, and its last block if it ends early.

    Args:
      path: of a workdir, a file or a folder.

    Returns:
      A key of `tljax.models.MODELS`, and `last_group`; None if the file does not tell.
    """
    workdir = source_workdir(path)
    if workdir is not None:
        config = read_config(workdir)
        return str(config.model), config.last_group
    file = folders.find_cached(path)
    metadata = read_metadata(Path(file)) if file is not None and not file.is_dir() else {}
    if metadata.get("format") != FORMAT or metadata.get("model") not in registry.MODELS:
        return None
    return metadata["model"], None
