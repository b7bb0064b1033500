"""The default rule: everything that is tuned, from the network and the target's size and shape.

The scenario pages use it (`hyperrule=default`). It starts from what others use, with sources, and
from the study in experiments/defaults, which measures every number that says so. Each choice comes
with its reason, which `config.json` and `tljax plan` show.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tljax.data.labels import Kind
from tljax.models import ConvNeXt, EfficientNet, Model, ResNet, ResNetV2, ViT
from tljax.training import trial
from tljax.training.problems import problem_of

STUDY = "experiments/defaults"
# Fields that an optimizer of steps uses and a solved head does not.
OF_STEPS = (
    *("optimizer", "lr", "steps", "epochs", "schedule", "warmup", "weight_decay", "clip_norm"),
    *("momentum", "patience", "ema", "label_smoothing", "head_init", "batch_size"),
    *("l2_sp_alpha", "l2_sp_beta", "sampling", "accumulate"),
)

# Fields of what a solved head cannot do, each with the value that does not ask for training.
_ASK_FOR_TRAINING = {
    "augment": "none",
    "mixup": 0.0,
    "cutmix": 0.0,
    "on_error": "fail",
    "train": ".*",
    "lora_rank": None,
    "stages": None,
    "regression_loss": "l2",
}

Choices = dict[str, tuple[Any, str]]  # of each config field its value, and the reason


@dataclass(frozen=True)
class Target:
    """What the rule looks at of the data.

    Attributes:
      images: training images, those that will validate included.
      class_names: in the order of the labels.
      tasks: number of data sets that are trained on together.
      has_val: whether the data comes with validation images.
      rarest: images of the rarest class that has any.
      kind: of the labels.
      can_try: whether trials may leave enough of the images out.
    """

    images: int
    class_names: tuple[str, ...]
    tasks: int
    has_val: bool
    rarest: int
    kind: Kind = "classes"
    can_try: bool = True


@dataclass(frozen=True)
class Network:
    """What the rule looks at of the network.

    Attributes:
      model: its module.
      parameters: number of parameters.
      source: name of the model and of the weights, which tell how it was pretrained.
    """

    model: Model
    parameters: int
    source: str


@dataclass(frozen=True)
class _Rates:
    """How a family of networks is fine-tuned, from a solved head.

    Attributes:
      optimizer, weight_decay: of it.
      lr: peak rate of the head and the top groups, at `_BATCH` images a step.
      layer_decay: factor of the rate for each group of distance from the head; the first group
        below the head has it twice, which is one factor less than timm's.
      frozen: peak rate where the first groups are frozen and all others share one rate.
      scratch: peak rate from random weights.
      why: the source.
    """

    optimizer: str
    weight_decay: float
    lr: float
    layer_decay: float
    frozen: float
    scratch: float
    why: str


_BATCH = 32
_FEW = 1_000  # below, a validation split costs more accuracy than what it decides gains
_DINO = _Rates("adamw", 0.05, 5e-4, 0.75, 1e-4, 5e-4, f"ViT by self-distillation: {STUDY}")
_VIT = {
    "dino": _DINO,
    "masked": _Rates(
        "adamw", 0.05, 5e-4, 0.65, 1e-4, 5e-4, "ViT by masked modelling: MAE, FINETUNE.md"
    ),
    "contrastive": _Rates(
        "adamw", 0.05, 1e-4, 0.7, 3e-5, 5e-4, "ViT by contrast with text: FT-CLIP, timm's cards"
    ),
    "supervised": _Rates(
        "adamw", 0.05, 2e-4, 0.75, 5e-5, 5e-4, "supervised ViT: between AutoGluon and BEiT"
    ),
}
_KINDS = {  # of pretraining, by whole words in the names of model and weights, e.g. dinov2
    "dino": "dino|lvd",
    "masked": "mae|beit|ijepa",
    "contrastive": "clip|siglip|laion|openai",
}
_RESNET = _Rates("sgd", 1e-4, 0.01, 1.0, 0.01, 0.05, f"ResNet: task_adaptation; {STUDY}")
_SMALL = replace(
    _RESNET,
    lr=0.1,
    frozen=0.1,
    why=f"small ResNet, validation or trials may turn it down: {STUDY}",
)
_LORA = _Rates(
    "adamw", 0.05, 1e-3, 1.0, 1e-3, 1e-3, "LoRA: one rate for all updates; configs/recipes/lora.py"
)
_CONVNEXT = _Rates(
    "adamw", 0.05, 2e-4, 0.8, 5e-5, 5e-4, "ConvNeXt: its fine-tuning, INSTALL.md; AutoGluon"
)
_MOBILE = _Rates(
    "adamw", 0.05, 2e-4, 0.9, 1e-4, 1e-3, "EfficientNet, MobileNet: AutoGluon's rate; not studied"
)
_BIT = _Rates("sgd", 0.0, 3e-3, 1.0, 3e-3, 0.03, "BiT: big_transfer's rate, bit_hyperrule.py")


def choose(
    scenario: str, target: Target, network: Network, set_by_hand: Mapping[str, Any]
) -> tuple[Choices, list[str]]:
    """The rule's value and reason for each field, and warnings.

    Args:
      scenario: of the config.
      target: the data.
      network: the model.
      set_by_hand: fields that the config file or the command line sets, with their values; the
        rule's other choices suit them.

    Returns:
      Choices for fields that are not set by hand, and sentences to warn the user with.
    """
    rates, warnings = _rates_of(network)
    chosen: Choices = {}
    if scenario == "feature_extraction":
        chosen |= _feature_extraction(target, set_by_hand)
    elif scenario == "from_scratch":
        chosen |= _from_scratch(target, rates, set_by_hand)
        if target.images < 5_000 and "init_from" not in set_by_hand:
            warnings.append(
                f"from_scratch on {target.images:,} training images: pretrained weights are nearly"
                " always better below some thousands of images; name some with init_from"
            )
    else:
        chosen |= _fine_tuning(scenario, target, network, rates, set_by_hand)
    warnings += _unsuited(chosen, set_by_hand)
    return {field: c for field, c in chosen.items() if field not in set_by_hand}, warnings


def _unsuited(chosen: Choices, set_by_hand: Mapping[str, Any]) -> list[str]:
    """Warnings of choices that do not suit what is set by hand."""
    warnings = []
    if set_by_hand.get("sampling") == "balanced" and chosen.get("head_init", ("",))[0] == "solved":
        warnings.append(
            "sampling is balanced, but the solved head that the run starts from weighs all images"
            " alike; class_weights=balanced balances both"
        )
    optimizer, chosen_one = set_by_hand.get("optimizer"), chosen.get("optimizer", ("",))[0]
    if optimizer not in (None, "lbfgs", chosen_one) and "lr" in chosen.keys() - set_by_hand.keys():
        warnings.append(
            f"optimizer is {optimizer}, but the default rule's lr, {chosen['lr'][0]:g}, is for"
            f" {chosen_one}; set lr as well"
        )
    return warnings


def _feature_extraction(target: Target, set_by_hand: Mapping[str, Any]) -> Choices:
    """Solves the head if nothing asks for steps, images that change or another aim; else trains."""
    steps = sorted(name for name in set_by_hand if name in OF_STEPS)
    if set_by_hand.get("optimizer") == "lbfgs":
        steps = []
    changing = [
        name for name, off in _ASK_FOR_TRAINING.items() if set_by_hand.get(name, off) != off
    ]
    changing += ["cache"] if set_by_hand.get("cache") == "off" else []
    usual = problem_of(target.kind).metrics[0]
    changing += ["select_by"] if set_by_hand.get("select_by") not in (None, usual) else []
    why = ""
    if target.tasks > 1:
        why = f"{target.tasks} data sets are trained on together"
    elif "l2" not in set_by_hand and target.rarest < 2:
        why = "a class has one image, which cross-validation cannot hold out"
    elif steps or changing:
        why = f"{', '.join([*steps, *changing])} set by hand"
    if not why:
        solved: Choices = {"optimizer": ("lbfgs", "a linear head is a convex problem: solved")}
        if not target.has_val:
            solved["val_fraction"] = (0.0, "cross-validation needs no validation images")
        return solved
    batch = max(1, int(set_by_hand.get("batch_size", 64)))
    length = max(300, math.ceil(40 * target.images / batch))
    return {
        "optimizer": ("adamw", f"not solved: {why}"),
        "lr": (3e-3, "of a head on features: DINOv2, linear evaluation"),
        "batch_size": (64, "features are small"),
        "steps": (length, "40 epochs, at least 300 steps"),
        "eval_every": _ten_evaluations(_length(length, target, batch, set_by_hand)),
        "weight_decay": (0.0, "DINOv2, linear evaluation"),
        "clip_norm": (1.0, "big_vision, transfer.py"),
    }


def _fine_tuning(
    scenario: str,
    target: Target,
    network: Network,
    rates: _Rates,
    set_by_hand: Mapping[str, Any],
) -> Choices:
    """From the solved head, at the family's rates, to a choice on the line of WiSE-FT."""
    if set_by_hand.get("optimizer") == "lbfgs":
        return {}  # which is refused: groups below the head train
    validation = _validation(target, set_by_hand)
    share = set_by_hand.get("val_fraction", validation.get("val_fraction", (None,))[0])
    validates = target.has_val or share != 0
    tries = not validates and _can_try(target, network, set_by_hand)
    if isinstance(network.model, ResNet) and _is_small(network) and (tries or validates):
        rates = _SMALL
    if set_by_hand.get("lora_rank"):
        rates = _LORA
    batch = _batch_size(target, set_by_hand)
    epochs = 20 if target.images < 50_000 else 10
    least = 300 if _is_small(network) else 100
    steps = max(least, math.ceil(epochs * target.images / batch))
    chosen: Choices = {
        "batch_size": (batch, _AS_MANY_IMAGES),
        "steps": (steps, f"{epochs} epochs, at least {least} steps: {STUDY}"),
        **_rhythm(steps, target, batch, set_by_hand),
        **_steps_of(
            rates, rates.frozen if scenario != "fine_tune" else rates.lr, batch, set_by_hand
        ),
        **_augmentation(target),
    }
    if scenario == "fine_tune":
        chosen["backbone_lr_scale"] = (rates.layer_decay, rates.why)
        if set_by_hand.get("lr_spread") is None:  # which excludes it
            chosen["layer_decay"] = (rates.layer_decay, rates.why)
    if scenario == "freeze_first":
        groups = len(network.model.groups)
        chosen["k"] = (round(0.4 * groups), f"two fifths of {groups} groups")
    starts_random = set_by_hand.get("init_k") is not None  # below the head
    if starts_random:
        chosen["head_init"] = ("zero", "init_k is set by hand: groups below the head are random")
    elif target.tasks > 1 or (target.rarest < 2 and "l2" not in set_by_hand):
        why = "two data sets" if target.tasks > 1 else "a class has one image"
        chosen["head_init"] = ("zero", f"no head is solved for it: {why}")
    elif set_by_hand.get("on_error", "fail") == "fail" and set_by_hand.get("stages") is None:
        chosen["head_init"] = ("solved", "Kumar et al. 2022, LP-FT")
    chosen |= validation
    chosen["wise_ft"] = (True, "Wortsman et al. 2022; it may end at the linear probe")
    if starts_random:
        chosen["wise_ft"] = (False, "init_k is set by hand: the start is no network to go back to")
    if not validates and set_by_hand.get("wise_ft", chosen["wise_ft"][0]):
        why = "the trial chooses another" if tries else "their advice without validation images"
        chosen["wise_ft_alpha"] = (0.5, why)
    if tries:
        why = "three folds choose between this rate and the solved head"
        chosen["trial_lr"] = ((set_by_hand.get("lr", chosen["lr"][0]),), f"{why}: {STUDY}")
    normalises_batches = isinstance(network.model, ResNet | EfficientNet)
    if normalises_batches and target.images < 500 and not tries:
        chosen["statistics"] = ("stored", "few images: Keras guide to fine-tuning")
    if isinstance(network.model, ViT | ConvNeXt) and target.images >= 5_000:
        chosen["drop_path"] = (0.1, "BEiT, timm's cards")
    return chosen


def _can_try(target: Target, network: Network, set_by_hand: Mapping[str, Any]) -> bool:
    """Whether a small network may be trained some times to choose rate and place on the line."""
    settled = {"wise_ft", "wise_ft_alpha", "head_init", "stages", "l2", "on_error", "init_k"}
    settled |= {"sampling"}  # which a solved head does not know: a trial would rather keep that
    fewest = 2 if target.kind == "classes" else trial.LEAST_OF_A_CLASS
    enough = target.tasks == 1 and target.rarest >= fewest and target.can_try
    return _is_small(network) and enough and not settled & set_by_hand.keys()


def _from_scratch(target: Target, rates: _Rates, set_by_hand: Mapping[str, Any]) -> Choices:
    """All weights random: a higher rate, and more epochs."""
    batch = _batch_size(target, set_by_hand)
    steps = max(500, math.ceil(30 * target.images / batch))
    return {
        "batch_size": (batch, _AS_MANY_IMAGES),
        "steps": (steps, "30 epochs, at least 500 steps; papers train ten times as long"),
        **_rhythm(steps, target, batch, set_by_hand),
        **_validation(target, set_by_hand),
        **_steps_of(rates, rates.scratch, batch, set_by_hand),
        **_augmentation(target),
    }


def _validation(target: Target, set_by_hand: Mapping[str, Any]) -> Choices:
    """The share to validate on, where that costs training images."""
    if target.has_val or {"train_size", "train_per_class", "patience"} & set_by_hand.keys():
        return {}  # the default share
    if target.images < _FEW:
        return {"val_fraction": (0.0, f"below {_FEW:,} images all train: {STUDY}")}
    return {"val_fraction": (min(0.1, 5_000 / target.images), "a tenth, at most 5,000 images")}


def _rhythm(steps: int, target: Target, batch: int, set_by_hand: Mapping[str, Any]) -> Choices:
    """Warm-up, and the steps between evaluations, for the rule's steps or those set by hand."""
    steps = _length(steps, target, batch, set_by_hand)
    warmup = 0 if set_by_hand.get("stages") else min(500, steps // 10)
    return {
        "warmup": (warmup, "a tenth of the steps, 500 at most; none in stages"),
        "eval_every": _ten_evaluations(steps),
    }


def _length(steps: int, target: Target, batch: int, set_by_hand: Mapping[str, Any]) -> int:
    """The steps that a run takes: those set by hand, else the rule's."""
    if set_by_hand.get("steps"):
        return int(set_by_hand["steps"])
    if "epochs" in set_by_hand:
        return math.ceil(set_by_hand["epochs"] * target.images / batch)
    return steps


def _ten_evaluations(steps: int) -> tuple[int, str]:
    return max(1, steps // 10), "ten evaluations"


def _steps_of(rates: _Rates, lr: float, batch: int, set_by_hand: Mapping[str, Any]) -> Choices:
    """Optimizer, rate, schedule, decay and clip."""
    factor = batch / _BATCH
    scaling = "sqrt" if rates.optimizer == "adamw" else "linearly"
    lr *= math.sqrt(factor) if rates.optimizer == "adamw" else factor
    decay = (rates.weight_decay, rates.why)
    if {"l2_sp_alpha", "l2_sp_beta"} & set_by_hand.keys():
        decay = (0.0, "L2-SP is set by hand, and excludes it")
    return {
        "optimizer": (rates.optimizer, rates.why),
        "lr": (
            float(f"{lr:.3g}"),
            rates.why + (f", scaled {scaling} to the batch" if factor != 1 else ""),
        ),
        "schedule": ("cosine", "Loshchilov & Hutter 2017"),
        "weight_decay": decay,
        "clip_norm": (1.0, "big_vision, transfer.py; AutoGluon"),
    }


_AS_MANY_IMAGES = "by the number of images"


def _batch_size(target: Target, set_by_hand: Mapping[str, Any]) -> int:
    """The batch that is set by hand, else the rule's; one below 1 is refused later."""
    images = target.images
    chosen = 32 if images < 5_000 else 64 if images < 50_000 else 128
    return max(1, int(set_by_hand.get("batch_size", chosen)))


def _augmentation(target: Target) -> Choices:
    """Crops and flips; no flips where the classes are digits or letters."""
    few, many = (0.5, 500), (0.08, 50_000)
    smallest = few[0] if target.images < few[1] else 0.35
    if target.images >= 5_000:
        smallest = 0.2 if target.images < many[1] else many[0]
    area = ((smallest, 1.0), "smallest share of the image: larger the fewer images there are")
    if target.kind == "regression":
        why = "a number may depend on the whole image: mild crops; augment=crop leaves flips out"
        return {"augment": ("crop_flip", why), "crop_area": ((0.8, 1.0), why)}
    # of two classes the names are mostly codes, such as 0 and 1
    if len(target.class_names) > 2 and all(len(name) == 1 for name in target.class_names):
        return {
            "augment": ("crop", "classes are digits or letters: no flips"),
            "crop_area": ((0.6, 1.0), "a part of a letter may be another letter"),
        }
    return {"augment": ("crop_flip", "transformers, lightly-train"), "crop_area": area}


def _is_small(network: Network) -> bool:
    """Whether a step costs so little that hundreds are nothing: one for images of 32 pixels."""
    return network.parameters < 1e6


def _rates_of(network: Network) -> tuple[_Rates, list[str]]:
    """The rates of the network's family, and a warning if it is not known."""
    rates, warnings = _RATES.get(type(network.model), _rates_of_vit)(network), []
    if type(network.model) not in _RATES:
        warnings.append(
            f"the default rule does not know networks like {network.source}: it uses the rates of"
            " a supervised ViT; set lr if they do not suit"
        )
    return rates, warnings


def _rates_of_vit(network: Network) -> _Rates:
    words = re.split(r"[^a-z0-9]+", network.source.lower())
    patterns = {kind: rf"({known})(v?\d\w*)?" for kind, known in _KINDS.items()}
    named = (k for k, pattern in patterns.items() if any(re.fullmatch(pattern, w) for w in words))
    rates = _VIT[next(named, "supervised")]
    if network.parameters < 200e6:
        return rates
    return replace(
        rates,
        lr=rates.lr * 2 / 3,
        frozen=rates.frozen * 2 / 3,
        why=rates.why + "; two thirds for a large one: MAE",
    )


_RATES: dict[type, Callable[[Network], _Rates]] = {
    ViT: _rates_of_vit,
    ResNet: lambda network: _RESNET,
    ResNetV2: lambda network: _BIT,
    ConvNeXt: lambda network: _CONVNEXT,
    EfficientNet: lambda network: _MOBILE,
}
