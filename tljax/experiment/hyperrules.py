"""Rules of thumb that choose config fields from the data, so that nothing has to be tuned.

A rule is applied before anything else: the run's `config.json` holds its numbers as if they had
been given. A field that the config file or the command line sets keeps its value. A field of a
config file counts as set if it differs from its default; `hyperrule_keeps` lists further fields.
"""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from tljax.config import base
from tljax.console import warn_once
from tljax.data import Dataset, Source
from tljax.data.sources import evenly_spaced
from tljax.errors import check_known
from tljax.experiment import default_rule
from tljax.experiment.source import channels_of
from tljax.models import parameter_count, registry, tracing
from tljax.models.preprocessing import height_width
from tljax.training import trial

_SMALL_AREA = 96**2  # pixels
_MEASURED = 32  # images whose area is looked at


def bit(train_size: int, image_area: float) -> dict[str, Any]:
    """BiT-HyperRule (Kolesnikov et al. 2020, "Big Transfer", section 3.3 and appendix A).

    SGD with momentum and a zero head at batch 512. The number of images decides length, MixUp and
    when the learning rate is divided by ten; their area decides the resolution. Images are resized
    to a square, from which a random square is cut, and mirrored at random.

    Args:
      train_size: number of training images.
      image_area: of a typical image, in pixels.

    Returns:
      Config fields and their values.
    """
    if train_size < 20_000:
        steps, warmup, drops, mixup = 500, 100, (200, 300, 400), 0.0
    elif train_size < 500_000:
        steps, warmup, drops, mixup = 10_000, 500, (3_000, 6_000, 9_000), 0.1
    else:
        steps, warmup, drops, mixup = 20_000, 500, (6_000, 12_000, 18_000), 0.1
    resized, cropped = (160, 128) if image_area <= _SMALL_AREA else (512, 480)
    share = cropped**2 / resized**2
    return {
        "optimizer": "sgd",
        "lr": 0.003,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "batch_size": 512,
        "steps": steps,
        "warmup": warmup,
        "schedule": "step",
        "milestones": tuple(drop / steps for drop in drops),
        "mixup": mixup,
        "head_init": "zero",
        "image_size": cropped,
        "crop_ratio": 1.0,
        "augment": "resize_crop_flip",
        "crop_area": (share, share),
    }


HYPERRULES = ("default", "bit")


def apply(config: ml_collections.ConfigDict, dataset: Dataset) -> ml_collections.ConfigDict:
    """The config with its rule's numbers for a data set, and without the rule.

    Args:
      config: with a rule.
      dataset: its data, without validation images that are split off.

    Raises:
      InputError: if there is no such rule, or `hyperrule_keeps` names an unknown field.
    """
    check_known("hyperrule", config.hyperrule, HYPERRULES)
    set_by_hand = _set_by_hand(config)
    applied = config.copy_and_resolve_references()
    if config.hyperrule == "bit":
        numbers = bit(len(dataset.train), _area(dataset.train))
        chosen = {name: (value, "BiT-HyperRule") for name, value in numbers.items()}
    else:
        chosen = _by_default(config, dataset, {name: config[name] for name in set_by_hand})
    reasons = []
    for name, (value, reason) in chosen.items():
        if name not in set_by_hand:
            applied[name] = value
            reasons.append(f"{name}={value}: {reason}")
    applied.hyperrule, applied.hyperrule_keeps = None, ()
    applied.hyperrule_chose = tuple(reasons)
    return applied


def apply_again(
    config: ml_collections.ConfigDict, before: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """The config with the numbers that its rule chose when the run began, and without the rule.

    Args:
      config: with a rule.
      before: the fields of the run's `config.json`.
    """
    applied = config.copy_and_resolve_references()
    set_by_hand = _set_by_hand(config)
    for name in (reason.partition("=")[0] for reason in before["hyperrule_chose"]):
        if name not in set_by_hand:
            value = before[name]
            applied[name] = tuple(value) if isinstance(value, list) else value
    applied.hyperrule, applied.hyperrule_keeps = None, ()
    applied.hyperrule_chose = tuple(before["hyperrule_chose"])
    return applied


def settle_again(
    config: ml_collections.ConfigDict, before: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """The config with what a trial settled when the run began, if that was the same trial.

    A field that is now set to something else than before the trial stays, so that it is found.

    Args:
      config: of a run that resumes.
      before: the fields of the run's `config.json`.
    """
    if not before["tried"] or list(config.trial_lr) != before["trial_lr"]:
        return config
    for text in before["asked"]:
        name = text.partition("=")[0]
        if name in config and text == f"{name}={json.dumps(config[name])}":
            config[name] = before[name]
    config.tried, config.asked = tuple(before["tried"]), tuple(before["asked"])
    return config


def _set_by_hand(config: ml_collections.ConfigDict) -> set[str]:
    """Names of the fields that the config file or the command line sets."""
    defaults = base()
    for name in config.hyperrule_keeps:
        check_known("config field", name, defaults)
    names = {name for name in defaults if config[name] != defaults[name]}
    names.update(config.hyperrule_keeps)
    if "epochs" in names:
        names.add("steps")
    return names - {"hyperrule", "hyperrule_keeps"}


def _by_default(
    config: ml_collections.ConfigDict, dataset: Dataset, set_by_hand: dict[str, Any]
) -> default_rule.Choices:
    kind, labels = dataset.kind, dataset.train.labels
    counts = np.array([len(labels)])  # numbers have no classes
    if kind != "regression":
        counts = np.bincount(labels) if kind == "classes" else labels.sum(axis=0, dtype=int)
    target = default_rule.Target(
        images=len(dataset.train),
        class_names=dataset.class_names,
        tasks=max(1, len(dataset.parts)),
        has_val=dataset.val is not None,
        rarest=int(counts[counts > 0].min(initial=len(labels))),
        kind=kind,
        can_try=trial.enough(dataset.train),
    )
    model = registry.create(config.model, num_classes=dataset.num_classes)
    if config.last_group is not None:
        model = registry.truncate(config.model, model, config.last_group)
    size = config.image_size or registry.spec(config.model).preprocessing.image_size
    shape = (*height_width(size), channels_of(config))
    parameters = parameter_count(tracing.abstract_variables(model, shape)["params"])
    source = f"{config.model} {_name_of_weights(config.init_from or '')}"
    network = default_rule.Network(model, parameters, source)
    chosen, warnings = default_rule.choose(config.scenario, target, network, set_by_hand)
    for warning in warnings:
        warn_once(warning)
    return chosen


def _name_of_weights(init_from: str) -> str:
    """An address, or a file's name with its folder's: those above it belong to the machine."""
    return init_from if "://" in init_from else "/".join(init_from.split("/")[-2:])


def _area(source: Source) -> float:
    """The median area of some of the images, in pixels."""
    rows = evenly_spaced(len(source), _MEASURED)
    return float(np.median([np.prod(source[int(row)]["image"].shape[:2]) for row in rows]))
