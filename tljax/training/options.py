"""The numbers of a training run, with their defaults; config fields of the same names fill them."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tljax.data.pipeline import ON_ERROR, SAMPLINGS
from tljax.data.transforms import AUGMENTATIONS
from tljax.devices import mesh
from tljax.errors import InputError, check_known
from tljax.training.objective import Objective
from tljax.transfer.optimizer import OPTIMIZERS, SCHEDULES

HEAD_INITS = ("zero", "random")
CACHES = ("auto", "memory", "disk", "off")
CLASS_WEIGHTS = ("balanced",)

# What may be changed when a run goes on: no number of its result depends on it.
HARMLESS = ("checkpoint_every", "data_dir", "keep", "num_workers")


@dataclass(frozen=True)
class TrainingOptions:
    """How long, how fast, how often.

    Attributes:
      batch_size: images a step.
      epochs, steps: how long to train: passes over the images, or, if set, steps.
      optimizer: `sgd` or `adamw`.
      lr: peak learning rate of a group with scale 1.
      schedule, warmup, milestones: see `tljax.transfer.learning_rate_schedule`; warm-up in steps.
      momentum: of SGD.
      weight_decay, decayed: rate, and regex on the parameter paths that it applies to.
      l2_sp_alpha, l2_sp_beta: of the pull of trained pretrained weights towards their start, and of
        new ones towards 0: see `tljax.transfer.l2_sp`; 0: none. It takes weight decay's place.
      clip_norm: largest global norm of the trained gradient, or None.
      label_smoothing, mixup, cutmix: of the loss, see `tljax.training.objective.Objective`. Mixed
        images are others in every step, so what frozen groups make of them cannot be kept.
      class_weights: `balanced`: an image counts in the loss inversely to how many its class has,
        1 in the mean; of several tasks their classes are weighed as if they were one's. None: all
        alike.
      ema: decay of a moving average of the trained parameters and of the statistics that training
        updates, see `tljax.training.state.averaged`; it is what is evaluated, and kept. None: none.
      patience: the run ends after so many evaluations, `eval_dense`'s included, without a better
        one than the best. The learning rate follows the schedule of `total_steps` as far as the run
        gets. None: it never ends before.
      accumulate: parts that a step's batch goes through the network in, their gradients added up; a
        divisor of batch_size. None: as suits the backend, without a change to the numbers but for
        rounding (and random masks).
      cache: of the output of the leading frozen groups, where images are not augmented: `memory`,
        `disk`, `off`, or `auto`: disk for a run with a workdir, else memory, if it fits.
      augment: `none`, `crop` (random-resized), `crop_flip`, `resize_crop_flip` (a box of
        the image's own shape), or `trivial`: after crop and flip an operation of
        `tljax.data.trivial_augment`.
      views: augmented views of each image, drawn once and the same for every seed; epoch e shows
        view e modulo `views`. What frozen groups make of them can be kept. None: every epoch draws
        anew.
      crop_area: smallest and largest share of the image that a random crop covers.
      sampling: `shuffled`: an epoch shows every image once; `balanced`: every class equally often
        (of several tasks, every class of each), an epoch being as many images as before.
      eval_every: in steps; None: once an epoch. Step 0 is evaluated too.
      eval_dense: whether steps 1, 2, 4, 8, ... below `eval_every` are evaluated as well.
      checkpoint_every: in steps; None: whenever evaluated.
      log_every: steps between two `train` rows.
      keep: newest checkpoints to keep, beside the best one.
      num_workers: processes that read images; 0: threads of this one.
      on_error: what to do about an image that cannot be read: `fail` or `skip`.
      head_init: of a new head: `zero` or `random`.
      mesh: sizes of the axes `data` and `fsdp` that the devices form: see `tljax.devices.mesh`.
      seed: of new weights, data order, augmentation and dropout.
    """

    batch_size: int = 64
    epochs: float = 10.0
    steps: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.01
    schedule: str = "cosine"
    warmup: int = 0
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    momentum: float = 0.9
    weight_decay: float = 0.0
    decayed: str = ".*kernel"
    l2_sp_alpha: float = 0.0
    l2_sp_beta: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    class_weights: str | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float | None = None
    patience: int | None = None
    accumulate: int | None = None
    cache: str = "auto"
    augment: str = "none"
    views: int | None = None
    crop_area: tuple[float, float] = (0.08, 1.0)
    sampling: str = "shuffled"
    eval_every: int | None = None
    eval_dense: bool = False
    checkpoint_every: int | None = None
    log_every: int = 10
    keep: int = 1
    num_workers: int = 0
    on_error: str = "fail"
    head_init: str = "zero"
    mesh: str = "data:-1"
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # JSON knows no NumPy numbers
                object.__setattr__(self, field.name, value.item())
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        check_known("optimizer", self.optimizer, OPTIMIZERS)
        check_known("schedule", self.schedule, SCHEDULES)
        check_known("augment", self.augment, AUGMENTATIONS)
        check_known("cache", self.cache, CACHES)
        check_known("head_init", self.head_init, HEAD_INITS)
        check_known("on_error", self.on_error, ON_ERROR)
        check_known("sampling", self.sampling, SAMPLINGS)
        if self.class_weights is not None:
            check_known("class_weights", self.class_weights, CLASS_WEIGHTS)
        mesh.parse(self.mesh)
        for name in ("batch_size", "epochs", "steps", "clip_norm"):
            self._check(name, "a finite number above 0", lambda value: value > 0)
        for name in ("accumulate", "views", "eval_every", "checkpoint_every", "log_every", "keep"):
            self._check(name, "above 0", lambda value: value > 0)
        self._check("patience", "above 0", lambda value: value > 0)
        for name in ("lr", "weight_decay", "l2_sp_alpha", "l2_sp_beta", "num_workers", "warmup"):
            self._check(name, "a finite number, not negative", lambda value: value >= 0)
        for name in ("mixup", "cutmix"):
            self._check(name, "a finite number, not negative", lambda value: value >= 0)
        for name in ("momentum", "label_smoothing"):
            self._check(name, "at least 0 and below 1", lambda value: 0 <= value < 1)
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
    def images_change(self) -> bool:
        """Whether one place in the data may hold another image in the next epoch."""
        drawn_anew = self.augment != "none" and self.views is None
        return drawn_anew or self.on_error != "fail" or self.mixup > 0 or self.cutmix > 0

    def total_steps(self, train_size: int) -> int:
        """Number of steps; an epoch may end within a batch, whose rest begins the next epoch."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * train_size / self.batch_size))

    def evaluation_interval(self, train_size: int) -> int:
        """Steps between two evaluations, but for the dense ones at the start."""
        return self.eval_every or max(1, math.ceil(train_size / self.batch_size))

    def evaluates_after(self, step: int, train_size: int) -> bool:
        """Whether the weights after `step` steps are evaluated: a matter of the step alone."""
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


OPTION_NAMES = tuple(field.name for field in fields(TrainingOptions))
