"""Where weights start: what `init_from` names, and how it prepares its images."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np

from tljax import weights
from tljax.errors import InputError, redacted
from tljax.experiment.lora import lora_of
from tljax.experiment.workdir import is_workdir, read_config, refuse_folds
from tljax.models import ImageSize, Model, Preprocessing, lora, registry
from tljax.models.preprocessing import parse_normalisation
from tljax.runs import baseline
from tljax.runs.record import read_result, read_tasks
from tljax.runs.resume import best_variables
from tljax.training.problems import Scale
from tljax.transfer.partition import Tree

# The fields that say how images are prepared; where one is None the source of the weights decides.
PREPROCESSING_FIELDS = ("image_size", "normalisation", "interpolation", "crop_ratio")


def pretrained_variables(
    config: ml_collections.ConfigDict, model: Model, image_size: ImageSize
) -> Tree | None:
    """The weights of a config's `init_from`, fitted to model and images; None without it.

    Raises:
      InputError: if it holds another model, no weights, or no head where the head is to be kept.
    """
    if config.init_from is None:
        return None
    source = read_source(config.init_from, config.model, config.init_key)
    if config.head_init == "pretrained":
        source.check_head("leave head_init out for a new head")
    return weights.variables_for(
        source, model, image_size, channels_of(config), config.position_resampling
    )


def source_workdir(init_from: str) -> Path | None:
    """The workdir that `init_from` names, if it names one; InputError for that of folds."""
    path = weights.as_path(init_from)
    if path is not None:
        refuse_folds(path)
    return path if path is not None and path.is_dir() and is_workdir(path) else None


def read_source(
    init_from: str, model_name: str, key: str | None = None
) -> weights.PretrainedWeights:
    """The weights of a workdir, with LoRA merged, or of other software, under tljax's names.

    Args:
      init_from: a workdir, or what `weights.load` takes.
      model_name: of the network.
      key: of a file with several networks the one to read.

    Raises:
      InputError: if there are none, or of another model.
    """
    workdir = source_workdir(init_from)
    if workdir is None:
        return weights.load(init_from, model_name, key)
    if key is not None:
        raise InputError(
            f"init_key={key} chooses a network of a weights file, but '{init_from}' is a workdir;"
            " leave it out"
        )
    if not (workdir / "checkpoints").is_dir():
        raise InputError(
            f"the folder '{init_from}' is a workdir of tljax, but holds no weights; give one whose"
            " run has saved some, or a weights file itself"
        )
    config = read_config(workdir)
    weights.check_model(init_from, config.model, model_name)
    variables = lora.fold(lora_of(config), best_variables(workdir))
    return weights.from_variables(variables, init_from)


def read_source_in_units(
    init_from: str, model_name: str, key: str | None = None
) -> weights.PretrainedWeights:
    """As `read_source`, but the head of a run on numbers predicts them in their units."""
    source, workdir = read_source(init_from, model_name, key), source_workdir(init_from)
    tasks = None if workdir is None else read_tasks(workdir, init_from)
    if tasks is None or tasks[0].scale is None:
        return source
    own = {name: source.arrays[f"head/{name}"] for name in ("kernel", "bias")}
    head = Scale(*tasks[0].scale).rescale(own, to=None)
    arrays = source.arrays | {f"head/{name}": array for name, array in head.items()}
    return replace(source, arrays=arrays)


def fetch_source(init_from: str, model_name: str) -> None:
    """Downloads the weights that `init_from` names, unless they lie here."""
    if source_workdir(init_from) is None:
        weights.fetch(init_from, model_name)


class Judgement(NamedTuple):
    """Whether the run of a workdir beats the naive baseline (None: not known), in words."""

    beats_naive: bool | None
    sentence: str


def judge_source(init_from: str) -> Judgement | None:
    """Whether the run that `init_from` names beats the naive baseline; None if it names no workdir.

    A run is judged by its `result.json`: no image is read.
    """
    workdir = source_workdir(init_from)
    if workdir is None:
        return None
    unknown = f"whether the run '{init_from}' beats the naive baseline is not known: "
    try:
        result = read_result(workdir)
    except InputError as error:
        return Judgement(None, f"{unknown}{error}")
    if result is None:
        return Judgement(None, f"{unknown}it is not done")
    found = baseline.compared(result)
    if found is not None:
        verdict = bool(found["verdict"])
        verb = "beats" if verdict else "does not beat"
        figures = baseline.describe(found)
        return Judgement(verdict, f"the run '{init_from}' {verb} the naive baseline ({figures})")
    return Judgement(None, f"{unknown}its result.json names no test or validation image")


def check_source(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """What to warn of before a run starts from the weights of `init_from`: a doubtful source.

    Raises:
      InputError: if these are of a run that does not beat the naive baseline, unless the config's
        `accept_source` is True.
    """
    judged = judge_source(config.init_from)
    if judged is None or judged.beats_naive:
        return ()
    if judged.beats_naive is None:
        return (judged.sentence,)
    if config.accept_source:
        return (f"{judged.sentence}, and is used as accept_source=True asks",)
    raise InputError(
        f"{judged.sentence}, so its weights are no source to learn from; train it for longer, give"
        " another init_from, or pass --config.accept_source=True to use it all the same"
    )


def source_preprocessing(init_from: str | None) -> Preprocessing | None:
    """How the source of the weights prepared its images; None if it does not say."""
    if init_from is None:
        return None
    workdir = source_workdir(init_from)
    if workdir is not None:
        return preprocessing_of(read_config(workdir))
    return weights.find_preprocessing(init_from)


def preprocessing_of(resolved: ml_collections.ConfigDict) -> Preprocessing:
    """The preprocessing of a resolved config."""
    channels = channels_of(resolved)
    mean, std = parse_normalisation(resolved.normalisation, channels)
    given = Preprocessing(
        resolved.image_size, mean, std, resolved.interpolation, resolved.crop_ratio
    )
    return given.for_channels(channels)


def channels_of(config: ml_collections.ConfigDict) -> int:
    """Number of channels of a config's images; InputError if it is none."""
    if config.channels is not None and config.channels < 1:
        raise InputError(
            f"channels is {config.channels}; set it to 1 or more, or leave it out for RGB"
        )
    return config.channels or 3


def channels_warnings(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """What is guessed, of an unresolved config, about channels that are not red, green and blue."""
    channels = channels_of(config)
    if config.normalisation is None:
        source = source_preprocessing(config.init_from)
        known = (source or registry.spec(config.model).preprocessing).channels
    else:
        known = len(parse_normalisation(config.normalisation, channels)[0])
    if channels == known:
        return ()
    if channels == 1:
        what = (
            "mean, deviation and pretrained first kernel follow from those of red, green and blue"
        )
    else:
        colours = ", ".join("RGB"[c % 3] for c in range(min(channels, 7)))
        more = ", ..." if channels > 7 else ""
        what = f"means, deviations and pretrained first kernels are those of {colours}{more}"
    return (
        f"channels is {channels}: {what}; set normalisation to {2 * channels} numbers for other"
        " means and deviations",
    )


def preprocessing_warnings(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Where an unresolved config prepares images differently from how its weights were trained.

    Another image size is left out: that is a choice, not a slip.
    """
    source, name = source_preprocessing(config.init_from), redacted(config.init_from)
    if source is None:
        if config.normalisation is not None:
            return ()
        usual = registry.spec(config.model).preprocessing.normalisation
        return (
            f"it is not known how the images of '{name}' were normalised; taking {usual}, as"
            f" {config.model} does",
        )
    source = source.for_channels(channels_of(config))
    return tuple(
        f"the config sets {field}={config[field]}, but '{name}' was trained with"
        f" {getattr(source, field)}; leave the field out to follow the weights"
        for field in PREPROCESSING_FIELDS[1:]
        if config[field] is not None and not _agree(field, config, source)
    )


def _agree(field: str, config: ml_collections.ConfigDict, source: Preprocessing) -> bool:
    """Whether the config sets a preprocessing field to what the source has."""
    if field != "normalisation":
        return bool(config[field] == getattr(source, field))
    mean, std = parse_normalisation(config.normalisation, source.channels)
    own = replace(source, mean=mean, std=std).for_channels(source.channels)
    return np.allclose((own.mean, own.std), (source.mean, source.std))
