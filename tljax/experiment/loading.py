"""`tljax.load`: a model by name, with its weights."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from tljax import weights
from tljax.errors import InputError
from tljax.experiment.source import judge_source, read_source, source_preprocessing
from tljax.models import ImageSize, Model, Preprocessing, registry
from tljax.training.options import TrainingOptions
from tljax.training.setup import new_variables
from tljax.transfer import scenarios
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")


def load(
    name: str,
    init_from: str | Path | None = None,
    *,
    num_classes: int | None,
    init_key: str | None = None,
    image_size: ImageSize | None = None,
    in_channels: int = 3,
    last_group: str | None = None,
    position_resampling: str | None = None,
    seed: int = 0,
    **fields: Any,
) -> tuple[Model, Tree, Preprocessing]:
    """Loads a model by name, with its weights and the preprocessing that they expect.

        model, variables, preprocessing = tljax.load("resnet50", "resnet50.pth", num_classes=10)
        logits = model.apply(variables, images, train=False)  # images (n, h, w, 3), normalised

    Args:
      name: of the model, as timm names it, e.g. `resnet50`.
      init_from: a name that `tljax models` lists, a weights file, a folder that `save_pretrained`
        wrote, an address (`hf://`, `https://`, `gs://`), or the workdir of a run of that model,
        which warns if that run does not beat the naive baseline; None: random weights.
      num_classes: size of the head, which is new (zero); 0: no head, the model returns features;
        None: the source's own head is kept, e.g. to evaluate the source task.
      init_key: of a file that holds several networks, e.g. a student and its teacher, the one to
        read: what its names begin with; None: the one that fits best and, of several, the averaged
        weights.
      image_size: side in pixels, or (height, width); None: the source's, else the model's own.
      in_channels: of the images.
      last_group: the block after which the network ends, before its head; None: its last one.
      position_resampling: how position embeddings are resized to another image size:
        `antialiased_bicubic` (timm), `bicubic` (transformers) or `zoom` (Google); None: as the
        library does it that the weights come from.
      seed: of random weights.
      **fields: fields of the Linen module to override, e.g. `drop_path=0.1`.

    Returns:
      (model, variables, preprocessing)

    Raises:
      InputError: for an unknown model or source, or weights of another model.
    """
    source = None if init_from is None else read_source(str(init_from), name, init_key)
    judged = None if init_from is None else judge_source(str(init_from))
    if judged is not None and judged.beats_naive is False:
        _log.warning("%s", judged.sentence)
    keeps_head = num_classes is None
    if in_channels < 1:
        raise InputError(f"in_channels is {in_channels}; set it to 1 or more")
    if isinstance(image_size, list):
        image_size = tuple(image_size)
    if num_classes is None:
        if source is None:
            raise InputError("a network of random weights has no head to keep; pass num_classes")
        source.check_head("pass num_classes for a new head")
        num_classes = source.num_classes
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
    model = registry.at_image_size(model, size)
    options = TrainingOptions(seed=seed)
    if source is None:
        return model, new_variables(model, preprocessing.image_shape, options), preprocessing
    head: dict[str, Any] = {"head": "pretrained"} if keeps_head else {}
    plan = scenarios.feature_extraction(model.groups, **head)
    new = new_variables(model, preprocessing.image_shape, options, plan.init)
    pretrained = weights.variables_for(source, model, size, in_channels, position_resampling)
    return model, plan.initialise(new, pretrained), preprocessing
