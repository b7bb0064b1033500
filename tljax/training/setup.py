"""What a run is made of, and whether it could begin."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data import Preprocessing, Source, kind_of
from tljax.data.transforms import augmentation
from tljax.devices import micro_batches, sharding
from tljax.devices.workers import check_main_guard
from tljax.errors import InputError, check_known
from tljax.frozen import cache as feature_cache
from tljax.models import (
    NORMALISATIONS,
    ImageShape,
    ImageSize,
    Model,
    initialisation,
    registry,
    tracing,
)
from tljax.models.groups import leaf_paths
from tljax.training.loss.tasks import class_ranges
from tljax.training.options import TrainingOptions
from tljax.training.problems import Problem, Scale, problem_of
from tljax.transfer import TransferPlan, learning_rate_schedule
from tljax.transfer.partition import Tree


@dataclass(frozen=True, eq=False)
class Setup:
    """What a run is made of; nothing of it changes while it runs.

    Attributes:
      model: a Linen module with `groups`.
      plan: what starts where, what moves, and how fast.
      options: how long, how fast, how often.
      preprocessing: image size and normalisation that the weights expect.
      train, val, test: the images; without `val` the last weights count as the best.
      tasks: name and number of classes of each task, if there are several; else empty.
    """

    model: Model
    plan: TransferPlan
    options: TrainingOptions
    preprocessing: Preprocessing
    train: Source
    val: Source | None = None
    test: Source | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)

    @property
    def image_size(self) -> ImageSize:
        """Side, or (height, width), in pixels."""
        return self.preprocessing.image_size

    @functools.cached_property
    def problem(self) -> Problem:
        """What the head learns, by the labels of the training images."""
        labels, loss = self.train.labels, self.options.regression_loss
        kind, sizes = kind_of(labels), tuple(self.tasks.values())
        scale = Scale.of(labels) if kind == "regression" else None
        return problem_of(kind, sizes, regression_loss=loss, scale=scale)

    @property
    def decides(self) -> str:
        """The metric on validation that decides which weights are kept."""
        return self.options.select_by or self.problem.metrics[0]

    @property
    def class_weights(self) -> np.ndarray | None:
        """What each class counts in the loss, see `Problem.balanced_weights`; None: the same."""
        if self.options.class_weights is None:
            return None
        return self.problem.balanced_weights(self.train.labels, self.model.num_classes)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, unless patience ends it before."""
        return self.options.total_steps(len(self.train))

    @property
    def abstract_variables(self) -> Tree:
        """The model's variables as shapes and dtypes."""
        return tracing.abstract_variables(self.model, self.preprocessing.image_shape)

    def check(self) -> None:
        """Raises InputError if the run could not begin; ask before anything is written."""
        options, plan, variables = self.options, self.plan, self.abstract_variables
        registry.check_image_size(type(self.model).__name__, self.model, self.image_size)
        plan.check_l2_sp(*options.l2_sp, variables["params"])
        micro_batches.check(options.accumulate, plan, variables, options.batch_size)
        sharding.check_batch(sharding.build(options.mesh), options.batch_size, options.accumulate)
        frozen_groups = plan.frozen_prefix(variables["params"])
        feature_cache.check(options.cache, frozen_groups, options.images_change)
        if options.cache == "off" or options.images_change or not frozen_groups:
            check_main_guard(options.num_workers)  # workers read the images
        augmentation(options.augment, self.preprocessing.channels)
        learning_rates(options, self.total_steps)
        if options.patience is not None and self.val is None:
            raise InputError(
                f"patience is {options.patience}, but there are no validation images to tell when"
                " to stop; pass some, or leave patience out"
            )
        self._check_problem()
        self._check_tasks()
        self._check_solved_head()
        if options.wise_ft and options.wise_ft_alpha is None and self.val is None:
            raise InputError(
                "wise_ft is True, but there are no validation images to choose on; pass some, or"
                " set wise_ft_alpha, or set wise_ft to False"
            )
        for source in (self.train, self.val, self.test):
            if source is not None:
                self._check_labels(source)

    def _check_solved_head(self) -> None:
        """Raises InputError if the run asks for a solved head that it cannot have."""
        options, plan = self.options, self.plan
        starts_solved = options.head_init == "solved" and plan.init[-1] == "random"
        if options.l2 is not None and not (options.solves or starts_solved):
            raise InputError(
                f"l2 is {options.l2}, but no head is solved; set optimizer to lbfgs or head_init to"
                " solved, or leave l2 out"
            )
        which = "optimizer is lbfgs" if options.solves else "head_init is solved"
        if options.solves:
            self._check_aim()
            paths = leaf_paths(self.abstract_variables["params"])
            trained = {path for path in paths if plan.is_trained(path)}
            if other := sorted(trained ^ {"head/kernel", "head/bias"}):
                raise InputError(
                    f"{which}, which solves the head alone and all of it, but this plan"
                    f" {'trains' if other[0] in trained else 'does not train'} {other[0]}; use"
                    " scenario feature_extraction, or optimizer sgd or adamw"
                )
        elif not starts_solved:
            return
        if len(self.tasks) > 1:
            remedy = "optimizer to adamw" if options.solves else "head_init to zero"
            raise InputError(
                f"{which}, which is for one data set, but there are {len(self.tasks)} tasks; name"
                f" one of them, or set {remedy}"
            )
        if not options.solves and "random" in plan.init[:-1]:
            raise InputError(
                f"{which}, which fits the head to pretrained features, but some groups below the"
                " head start from random weights; set head_init to zero"
            )
        if options.on_error != "fail":
            raise InputError(
                f"{which}, which needs every training image, but on_error is {options.on_error};"
                " set on_error to fail, or head_init to zero"
            )

    def _check_aim(self) -> None:
        """Raises InputError if the run asks for another aim than that of a head's solution."""
        for name, own in (("select_by", self.problem.metrics[0]), ("regression_loss", "l2")):
            if (value := getattr(self.options, name)) not in (None, own):
                raise InputError(
                    f"{name} is {value}, but optimizer is lbfgs, whose solution does not use it;"
                    f" leave {name} out, or set optimizer to adamw"
                )

    def _check_problem(self) -> None:
        """Raises InputError for options that the kind of labels does not use."""
        options, problem = self.options, self.problem
        kind = problem.kind
        if options.select_by is not None:
            check_known("select_by", options.select_by, (*problem.metrics, "loss"))
        if options.regression_loss != "l2" and kind != "regression":
            raise InputError(
                f"regression_loss is {options.regression_loss}, but the labels are of the kind"
                f" {kind}; leave it out"
            )
        unused: dict[str, tuple[str, ...]] = {
            "classes": (),
            "multi_label": ("sampling",),
            "regression": ("sampling", "class_weights", "label_smoothing", "mixup", "cutmix"),
        }
        for name in unused[kind]:
            default = getattr(TrainingOptions, name)
            if (value := getattr(options, name)) != default:
                raise InputError(
                    f"{name} is {value}, which is for classes, but the labels are of the kind"
                    f" {kind}; leave it out"
                )
        if len(self.tasks) > 1 and kind != "classes":
            raise InputError(
                f"there are {len(self.tasks)} tasks, which are for classes, but the labels are of"
                f" the kind {kind}; train on each alone"
            )

    def _check_tasks(self) -> None:
        """Raises InputError unless the tasks are the model's, and each split has images of each."""
        sizes = tuple(self.tasks.values())
        if not sizes:
            return
        if (classes := sum(sizes)) != self.model.num_classes:
            raise InputError(
                f"the tasks have {classes} classes in all, but the model has"
                f" {self.model.num_classes}; create it with num_classes of all tasks together"
            )
        if self.problem.kind != "classes":
            return
        splits = {"training": self.train, "validation": self.val, "test": self.test}
        for split, source in splits.items():
            for task, (first, end) in zip(self.tasks, class_ranges(sizes), strict=True):
                labels = None if source is None else source.labels
                if labels is not None and not ((labels >= first) & (labels < end)).any():
                    raise InputError(
                        f"none of the {len(labels)} {split} images is of task '{task}'; add some,"
                        " or leave the task out"
                    )

    def _check_labels(self, source: Source) -> None:
        if not len(source):
            raise InputError("one of the splits has no images; pass at least one, or None")
        if (kind := kind_of(source.labels)) != self.problem.kind:
            raise InputError(
                f"the labels of one split are of the kind {kind}, those of the training images of"
                f" the kind {self.problem.kind}; pass the same kind"
            )
        if kind != "classes":
            if source.labels.shape[1] != self.model.num_classes:
                raise InputError(
                    f"each image has {source.labels.shape[1]} labels of the kind {kind}, but the"
                    f" model has {self.model.num_classes} outputs; create it with num_classes of"
                    " the data"
                )
            return
        if (label := int(np.max(source.labels))) >= self.model.num_classes:
            raise InputError(
                f"the data has a label {label}, but the model has {self.model.num_classes} classes;"
                " create it with num_classes of the data"
            )


def own_preprocessing(train: Source) -> Preprocessing:
    """The first image's size and ImageNet's statistics, where nothing says what weights expect."""
    height, width, channels = train[0]["image"].shape
    own = Preprocessing(min(height, width), *NORMALISATIONS["imagenet"])
    return own.for_channels(channels)


def new_variables(
    model: Model,
    image: ImageSize | ImageShape,
    options: TrainingOptions,
    init: Sequence[str] | None = None,
) -> Tree:
    """Random variables from the seed, with the head as `head_init` says.

    Args:
      model: the network.
      image: (height, width, channels) of its images, or the size of RGB images.
      options: for `seed` and `head_init`.
      init: a plan's, per group: only groups that are `random` are drawn, the rest stays abstract.
        None: all are drawn.
    """
    zero_head = options.head_init in ("zero", "solved")  # a solved one replaces the zeros
    groups = None
    if init is not None:
        drawn = zip(model.groups.names, init, strict=True)
        groups = tuple(at == "random" and not (zero_head and name == "head") for name, at in drawn)
    key = jax.random.key(options.seed)
    variables = initialisation.init(model, key, image, groups)
    if zero_head and "head" in variables["params"]:
        variables["params"]["head"] = jax.tree.map(jnp.zeros_like, variables["params"]["head"])
    return variables


@functools.lru_cache(maxsize=16)  # ten small programs each, and both check and run need them
def learning_rates(options: TrainingOptions, steps: int) -> np.ndarray:
    """The learning rate of every step, float32 (steps,); do not write to it."""
    schedule = learning_rate_schedule(
        options.schedule, options.lr, steps, warmup=options.warmup, milestones=options.milestones
    )
    return np.asarray(jax.vmap(schedule)(np.arange(steps)), np.float32)
