"""Where weights start: what `init_from` names, and a model that is loaded by hand."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from tljax import weights
from tljax.errors import InputError
from tljax.experiment import lora as adapters
from tljax.experiment.record import read_config
from tljax.models import ImageSize, Model, Preprocessing, lora, registry
from tljax.models.preprocessing import parse_normalisation
from tljax.runs.checkpoints import best_variables
from tljax.training.options import TrainingOptions
from tljax.training.preparation import new_variables
from tljax.transfer import scenarios
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")


# The fields that say how images are prepared; where one is None the source of the weights decides.
_PREPROCESSING_FIELDS = ("image_size", "normalisation", "interpolation", "crop_ratio")


def pretrained_variables(
    config: ml_collections.ConfigDict, model: Model, image_size: ImageSize
) -> Tree | None:
    """The weights of `init_from`, fitted to the model and the size of its images, or None.

    Raises:
      InputError: if it holds another model, or no weights.
    """
    if config.init_from is None:
        return None
    source = read_source(config.init_from, config.model)
    return weights.variables_for(
        source, model, image_size, position_resampling=config.position_resampling
    )


def load(
    name: str,
    init_from: str | Path | None = None,
    *,
    num_classes: int | None,
    image_size: ImageSize | None = None,
    in_channels: int = 3,
    last_group: str | None = None,
    position_resampling: str | None = None,
    seed: int = 0,
    **fields: Any,
) -> tuple[Model, Tree, Preprocessing]:
    """A model by the field's name, with its weights, and the images that they expect.

    Args:
      name: of the model, e.g. `resnet50`.
      init_from: a name that `tljax models` lists, a checkpoint file, an address (`hf://`,
        `https://`, `gs://`), or the workdir of a run of that model; None: random weights.
      num_classes: size of the head, which is new (zero); 0: none, the model gives features; None:
        the source's own head is kept, e.g. to evaluate the source task.
      image_size: side in pixels, or (height, width); None: the source's, else the model's own.
      in_channels: of the images.
      last_group: the block after which the network ends, before its head; None: its last one.
      position_resampling: how position embeddings are brought to another image size:
        antialiased_bicubic (timm), bicubic (transformers) or zoom (Google); None: as the code that
        the checkpoint comes from does it.
      seed: of random weights.
      **fields: fields of the Linen module to override, e.g. `drop_path=0.1`.

    Raises:
      InputError: for an unknown model or source, or weights of another model.
    """
    source = None if init_from is None else read_source(str(init_from), name)
    keeps_head = num_classes is None
    if in_channels < 1:
        raise InputError(f"in_channels is {in_channels}; set it to 1 or more")
    if isinstance(image_size, list):
        image_size = tuple(image_size)
    if num_classes is None:
        num_classes = source.num_classes if source else 0
        if not num_classes:
            what = f"'{init_from}'" if init_from else "a network of random weights"
            raise InputError(f"{what} has no head to keep; pass num_classes")
    model = registry.create(name, num_classes, **fields)
    if last_group is not None:
        model = registry.truncate(name, model, last_group)
    own = None if init_from is None else source_preprocessing(str(init_from))
    preprocessing = own or registry.spec(name).preprocessing
    if image_size is not None:
        preprocessing = replace(preprocessing, image_size=image_size)
    preprocessing = preprocessing.for_channels(in_channels)
    size = preprocessing.image_size
    registry.check_image_size(name, model, size)
    options = TrainingOptions(seed=seed)
    if source is None:
        return model, new_variables(model, size, options, channels=in_channels), preprocessing
    head: dict[str, Any] = {"head": "pretrained"} if keeps_head else {}
    plan = scenarios.feature_extraction(model.groups, **head)
    new = new_variables(model, size, options, plan.init, in_channels)
    pretrained = weights.variables_for(source, model, size, in_channels, position_resampling)
    return model, plan.initialise(new, pretrained), preprocessing


def _workdir(init_from: str) -> Path | None:
    """The folder that `init_from` names, if it names one."""
    path = weights.as_path(init_from)
    return path if path is not None and path.is_dir() else None


def read_source(init_from: str, model_name: str) -> weights.Checkpoint:
    """The weights of a workdir, with LoRA merged, or of a checkpoint, under our names."""
    workdir = _workdir(init_from)
    if workdir is None:
        return weights.load(init_from, model_name)
    if not (workdir / "checkpoints").is_dir():
        raise InputError(
            f"the folder '{init_from}' is not a workdir of tljax that holds weights; give one that"
            " does, or a checkpoint file itself"
        )
    config = read_config(workdir)
    weights.check_model(init_from, config.model, model_name)
    variables = lora.fold(adapters.lora_of(config), best_variables(workdir))
    return weights.of_variables(variables, init_from)


def _fetch(init_from: str, model_name: str) -> None:
    if _workdir(init_from) is None:
        weights.fetch(init_from, model_name)


def source_preprocessing(init_from: str | None) -> Preprocessing | None:
    """What the source of the weights says of its images; None if it says nothing."""
    if init_from is None:
        return None
    workdir = _workdir(init_from)
    if workdir is not None:
        return preprocessing_of(read_config(workdir))
    return weights.preprocessing_of(init_from)


def preprocessing_of(resolved: ml_collections.ConfigDict) -> Preprocessing:
    """The preprocessing of a resolved config."""
    mean, std = parse_normalisation(resolved.normalisation)
    return Preprocessing(
        resolved.image_size, mean, std, resolved.interpolation, resolved.crop_ratio
    )


def _warn_of_preprocessing(config: ml_collections.ConfigDict) -> None:
    """Says where a config prepares images otherwise than its weights are used to, or may do so.

    The image size is left out: to change that is a choice, not a slip.
    """
    source = source_preprocessing(config.init_from)
    if source is None:
        if config.normalisation is None:
            _log.warning(
                "'%s' does not say how its images were normalised; taking %s, as %s does",
                config.init_from,
                registry.spec(config.model).preprocessing.normalisation,
                config.model,
            )
        return
    for field in _PREPROCESSING_FIELDS[1:]:
        if config[field] is not None and not _agree(config[field], getattr(source, field)):
            _log.warning(
                "the config sets %s=%s, but '%s' was trained with %s; leave the field out to"
                " follow the checkpoint",
                field,
                config[field],
                config.init_from,
                getattr(source, field),
            )


def _agree(a: Any, b: Any) -> bool:
    """Whether two values of a field of preprocessing, perhaps normalisations, are the same."""
    if not isinstance(a, str) or a.split() == b.split():
        return bool(a == b)
    return " " in a + b and np.allclose(parse_normalisation(a), parse_normalisation(b))
