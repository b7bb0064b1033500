"""How a run is trained: the options of `tljax.fit`, which are fields of a config too."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from tljax.data.pipeline import ON_ERROR, SAMPLINGS
from tljax.data.transforms import AUGMENTATIONS
from tljax.devices import sharding
from tljax.errors import InputError, check_known
from tljax.runs.scores import WORDS
from tljax.training.loss.objective import Objective
from tljax.training.problems.regression import LOSSES
from tljax.transfer.optimizer import OPTIMIZERS, SCHEDULES

HEAD_INITS = ("zero", "random", "solved")
CACHES = ("auto", "memory", "disk", "off")
CLASS_WEIGHTS = ("balanced",)
SOLVER = "lbfgs"
ON_NAN = ("restart", "fail")

# Options that a head's solution does not use.
_NOT_SOLVED = (
    *("clip_norm", "ema", "head_init", "l2_sp_alpha", "l2_sp_beta", "label_smoothing", "patience"),
    *("sampling", "weight_decay", "wise_ft"),
)

# What may change when a run resumes: no number of its result depends on it.
HARMLESS = ("accept_source", "checkpoint_every", "data_dir", "keep", "num_workers", "on_nan")


@dataclass(frozen=True)
class TrainingOptions:
    """How long, how fast, how often: keyword arguments of `tljax.fit`, and fields of a config.

    A field that is None is off, or follows from others as its docstring says.
    """

    # How long, how fast.
    batch_size: int = 64
    """Images a step."""
    epochs: float = 10.0
    """Passes over the training images."""
    steps: int | None = None
    """If set, the number of steps, instead of epochs."""
    optimizer: str = "sgd"
    """`sgd`, `adamw`, or `lbfgs`: solves a linear head on fixed features, in one step.

    `lbfgs` is for plans that train the head alone; see `tljax.frozen.linear_head`. It has no use
    for `steps`, `epochs`, `lr`, `schedule`, `warmup`, `milestones`, `momentum` and `accumulate`,
    which may be set all the same, since config files set them. Other options that it would ignore
    are refused.
    """
    l2: float | None = None
    """Of a head that is solved: strength of its L2 penalty; None: cross-validation chooses."""
    lr: float = 0.01
    """Peak learning rate of a group whose scale is 1."""
    schedule: str = "cosine"
    """`constant`, `cosine` or `step`; see `tljax.transfer.learning_rate_schedule`."""
    warmup: int = 0
    """Steps of linear warm-up."""
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    """`schedule=step`: shares of the steps after each of which the rate is divided by ten."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 0.0
    """Weight decay: of AdamW decoupled, of SGD added to the gradient."""
    decayed: str = ".*kernel"
    """Regex on parameter paths: the parameters that weight decay applies to."""
    l2_sp_alpha: float = 0.0
    """L2-SP: pulls trained pretrained weights back to their start. Excludes weight decay."""
    l2_sp_beta: float = 0.0
    """L2-SP: pulls new weights, such as the head's, to 0."""
    clip_norm: float | None = None
    """Largest global norm of the trained gradient."""

    # The loss.
    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes (of its task)."""
    class_weights: str | None = None
    """`balanced`: an image counts inversely to the number of images of its class, 1 on average.

    Of several labels an image: of each class those with and without it count the same in all.
    """
    regression_loss: str = "l2"
    """Of numbers, standardised: `l2`, squared error; `l1`, absolute error; or `huber`."""

    on_nan: str = "restart"
    """If a loss is not finite: `restart`, once, at a third of the learning rate, or `fail`.

    The run goes back to its start or, if the best validated weights are from the second half of its
    steps and have a lower loss, to those. A second loss that is not finite ends it.
    """

    # What is kept as the model, and when training ends.
    select_by: str | None = None
    """The metric on validation images that decides which weights are kept, or `loss`.

    Of classes `accuracy`, `balanced_accuracy` or `macro_f1`; of several labels an image
    `mean_average_precision`, `micro_f1` or `macro_f1`; of numbers `r2`, `rmse` or `mae`. None: the
    first of these.
    """
    ema: float | None = None
    """Decay of a moving average of what trains, which is then evaluated and kept."""
    patience: int | None = None
    """Ends a run after so many evaluations without improvement; the schedule is not shortened."""
    wise_ft: bool = False
    """WiSE-FT: the result lies on the line from the weights of step 0 to the last ones.

    Validation images decide where, or `wise_ft_alpha`; see `tljax.training.wise_ft`. False: the
    best evaluated weights.
    """
    wise_ft_alpha: float | None = None
    """Where on that line, from 0 (step 0) to 1 (the last step); None: validation images decide.

    The training images check it: where they are fitted badly, half of it or 0 is taken, which is
    said.
    """

    # Memory and time.
    accumulate: int | None = None
    """Parts of a step's batch, whose gradients are added up: less memory. Divides `batch_size`.

    None: what suits the backend, which changes numbers by rounding (and random masks) only.
    """
    cache: str = "auto"
    """Where to cache the output of the leading frozen groups: `memory`, `disk`, `off` or `auto`.

    Possible if images stay the same. `auto`: on disk (~/.cache/tljax/features) for a run with a
    workdir, else or if nothing can be written there in memory, if there is room.
    """

    # What images go through in training.
    augment: str = "none"
    """`none`, `crop` (of random size and place, resized), `crop_flip`, `trivial` or
    `resize_crop_flip`.

    `trivial`: crop and flip, then an operation of TrivialAugment. `resize_crop_flip`: as if the
    image was resized to a square, of which a smaller square is then cut at random.
    """
    views: int | None = None
    """Draws so many augmented views of each image once, the same for every seed, shown in turn.

    What frozen groups make of them can be cached. None: every epoch draws anew.
    """
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image that a random crop covers."""
    mixup: float = 0.0
    """Blends pairs of images and their labels; alpha of the distribution of shares. 0: off."""
    cutmix: float = 0.0
    """Pastes a box of one image into another; alpha as of `mixup`, which takes turns with it."""
    sampling: str = "shuffled"
    """`shuffled`: an epoch shows every image once; `balanced`: every class equally often."""
    num_workers: int = 0
    """Processes that read images; 0: threads of this one.

    A script that sets it has to call tljax under `if __name__ == "__main__":`.
    """
    on_error: str = "fail"
    """If an image cannot be read: `fail`, or `skip` it and name it in the result."""

    # What is evaluated, logged and saved, and when.
    eval_every: int | None = None
    """Steps between evaluations, of which one is at step 0; None: an epoch."""
    eval_dense: bool = False
    """Whether to evaluate after steps 1, 2, 4, 8, ... below `eval_every` too."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; None: one at every evaluation."""
    log_every: int = 10
    """Steps between `train` rows of metrics."""
    keep: int = 1
    """Newest checkpoints to keep, besides the best one."""

    head_init: str = "zero"
    """Of a new head: `zero`, `random`, or `solved`: a linear probe, solved as `lbfgs` does.

    In a config also `pretrained`: the source's head is kept.
    """
    mesh: str = "data:-1"
    """Devices: the batch is spread over `data` x `fsdp`, weights are cut in `fsdp` pieces.

    E.g. `data:-1`, `fsdp:-1` or `data:4,fsdp:2`; -1 is what is left of the number of devices.
    """
    seed: int = 0
    """Of new weights, data order, augmentation and dropout."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # JSON knows no NumPy numbers
                object.__setattr__(self, field.name, value.item())
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            self._check_type(field.name)
        check_known("optimizer", self.optimizer, (*OPTIMIZERS, SOLVER))
        check_known("schedule", self.schedule, SCHEDULES)
        check_known("augment", self.augment, AUGMENTATIONS)
        check_known("cache", self.cache, CACHES)
        check_known("head_init", self.head_init, HEAD_INITS)
        check_known("on_error", self.on_error, ON_ERROR)
        check_known("on_nan", self.on_nan, ON_NAN)
        check_known("sampling", self.sampling, SAMPLINGS)
        check_known("regression_loss", self.regression_loss, LOSSES)
        if self.select_by is not None:
            check_known("select_by", self.select_by, WORDS)
        if self.class_weights is not None:
            check_known("class_weights", self.class_weights, CLASS_WEIGHTS)
        sharding.parse(self.mesh)
        for name in ("batch_size", "epochs", "steps", "clip_norm"):
            self._check(name, "a finite number above 0", lambda value: value > 0)
        for name in ("accumulate", "views", "eval_every", "checkpoint_every", "log_every", "keep"):
            self._check(name, "above 0", lambda value: value > 0)
        self._check("patience", "above 0", lambda value: value > 0)
        for name in ("lr", "weight_decay", "l2", "l2_sp_alpha", "l2_sp_beta", "num_workers"):
            self._check(name, "a finite number, not negative", lambda value: value >= 0)
        for name in ("warmup", "mixup", "cutmix"):
            self._check(name, "a finite number, not negative", lambda value: value >= 0)
        for name in ("momentum", "label_smoothing"):
            self._check(name, "at least 0 and below 1", lambda value: 0 <= value < 1)
        self._check("wise_ft_alpha", "from 0 to 1", lambda value: 0 <= value <= 1)
        if self.wise_ft_alpha is not None and not self.wise_ft:
            raise InputError(
                f"wise_ft_alpha is {self.wise_ft_alpha}, but wise_ft is False; set it to True, or"
                " leave wise_ft_alpha out"
            )
        self._check("ema", "above 0 and below 1", lambda value: 0 < value < 1)
        self._check("seed", "from 0 to 4294967295", lambda value: 0 <= value < 2**32)
        self._check("decayed", "a regular expression", _is_regex)
        self._check("crop_area", "two shares, smallest and largest, above 0 and up to 1", _is_area)
        self._check("milestones", "shares of the steps, between 0 and 1", _are_shares)
        if self.weight_decay and any(self.l2_sp):
            raise InputError(
                f"weight_decay is {self.weight_decay}, which pulls to 0 what L2-SP pulls elsewhere"
                f" (l2_sp_alpha={self.l2_sp_alpha}, l2_sp_beta={self.l2_sp_beta}); set it to 0"
            )
        if self.views is not None and self.augment == "none":
            raise InputError(
                f"views is {self.views}, but augment is none, so that all of them would be the"
                " same; set augment, or leave views out"
            )
        if self.class_weights == self.sampling == "balanced":
            raise InputError(
                "sampling and class_weights are both balanced, so that rare classes would count"
                " twice; set one of them"
            )
        if self.solves:
            self._check_solver()

    def _check_solver(self) -> None:
        """Raises InputError if the solution of a head would ignore an option that is set.

        But for those of `optimizer`.
        """
        defaults = {field.name: field.default for field in fields(self)}
        for name in _NOT_SOLVED:
            if (value := getattr(self, name)) != defaults[name]:
                raise InputError(
                    f"{name} is {value}, but optimizer is lbfgs, whose solution does not use it;"
                    f" leave {name} out, or set optimizer to adamw"
                )
        if self.images_change or self.cache == "off":
            changing = ("mixup", "cutmix", "on_error", "augment")
            set_ones = [name for name in changing if getattr(self, name) not in (0, defaults[name])]
            name = set_ones[0] if self.images_change else "cache"
            raise InputError(
                f"{name} is {getattr(self, name)}, but optimizer is lbfgs, which needs the same"
                f" features of an image throughout; set it to {defaults[name]}, or optimizer to"
                " adamw"
            )

    def _check_type(self, name: str) -> None:
        """Raises InputError unless the field is of its type; a number may be a whole one."""
        value, kinds = getattr(self, name), _TYPES[name]
        if isinstance(value, bool):
            is_right = bool in kinds
        else:
            is_right = isinstance(value, (*kinds, int) if float in kinds else kinds)
        if not is_right:
            wanted = " or ".join(_IN_WORDS[kind] for kind in kinds)
            raise InputError(f"{name} is {value!r}; set it to {wanted}")

    def _check(self, name: str, wanted: str, is_right: Callable[[Any], bool]) -> None:
        """Raises InputError unless the field is None, or finite and right."""
        value = getattr(self, name)
        if value is None:
            return
        finite = not isinstance(value, float) or math.isfinite(value)
        if not (finite and is_right(value)):
            raise InputError(f"{name} is {value!r}; set it to {wanted}")

    @property
    def l2_sp(self) -> tuple[float, float]:
        """(alpha, beta)."""
        return self.l2_sp_alpha, self.l2_sp_beta

    @property
    def objective(self) -> Objective:
        """What is minimised, but for the weights of classes, which follow from the data."""
        return Objective(self.label_smoothing, self.mixup, self.cutmix)

    @property
    def solves(self) -> bool:
        """Whether the head is solved instead of trained: the run is then one step."""
        return self.optimizer == SOLVER

    @property
    def images_change(self) -> bool:
        """Whether one place in the data may hold another image in the next epoch."""
        drawn_anew = self.augment != "none" and self.views is None
        return drawn_anew or self.on_error != "fail" or self.mixup > 0 or self.cutmix > 0

    def total_steps(self, train_size: int) -> int:
        """Number of steps; an epoch may end within a batch, whose rest begins the next epoch."""
        if self.solves:
            return 1
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * train_size / self.batch_size))

    def evaluation_interval(self, train_size: int) -> int:
        """Steps between two evaluations, but for the dense ones at the start."""
        return self.eval_every or max(1, math.ceil(train_size / self.batch_size))

    def evaluates_after(self, step: int, train_size: int) -> bool:
        """Whether the weights after `step` steps are evaluated: a matter of the step alone.

        Not the head of zeros before a solution: it answers the first class, which may be the
        commonest.
        """
        if self.solves and step == 0:
            return False
        interval = self.evaluation_interval(train_size)
        is_power_of_two = step & (step - 1) == 0
        return (
            step % interval == 0
            or step == self.total_steps(train_size)
            or (self.eval_dense and step < interval and is_power_of_two)
        )


def _is_regex(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _is_area(area: Any) -> bool:
    return _is_numbers(area) and len(area) == 2 and 0 < area[0] <= area[1] <= 1


def _are_shares(shares: Any) -> bool:
    return _is_numbers(shares) and all(0 < share < 1 for share in shares)


def _is_numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types of which a value with a type hint may be."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts)


OPTION_NAMES = tuple(field.name for field in fields(TrainingOptions))
_TYPES = {name: _kinds(hint) for name, hint in get_type_hints(TrainingOptions).items()}
_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    tuple: "a tuple of numbers",
    NoneType: "None",
}
