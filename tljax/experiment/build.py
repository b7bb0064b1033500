"""From a config to model, plan, preprocessing, options and data, in one pass."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections

from tljax import data, weights
from tljax.data import Dataset, Kept, Task, joint_class_names, kept
from tljax.data.datasets import split_spec
from tljax.devices import processes
from tljax.errors import InputError, check_known, redacted
from tljax.experiment import hyperrules, lora
from tljax.experiment.source import (
    PREPROCESSING_FIELDS,
    channels_of,
    channels_warnings,
    check_source,
    fetch_source,
    preprocessing_of,
    preprocessing_warnings,
    pretrained_variables,
    source_preprocessing,
    source_workdir,
)
from tljax.experiment.workdir import check_not_foreign, is_begun, read_config, read_splits
from tljax.models import Model, Preprocessing, registry, tracing
from tljax.runs.record import check_classes, has_begun, read_result, read_tasks
from tljax.runs.workdir import differences, refuse_changes
from tljax.training.options import HARMLESS, HEAD_INITS, OPTION_NAMES, TrainingOptions
from tljax.training.problems import Problem, Scale, problem_of
from tljax.training.setup import Setup
from tljax.training.stages import checked_stages
from tljax.transfer import Stage, TransferPlan, recipes, scenarios
from tljax.transfer.partition import Tree
from tljax.weights.fitting import RESAMPLINGS

_log = logging.getLogger("tljax")

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Experiment:
    """A config and the objects that it describes; images and weights are read on request.

    Attributes:
      config: resolved.
      model, preprocessing, options: of the run.
      plan: of a run in stages it says where the groups start in the first one, and what moves in
        the last.
      tasks: names and classes; usually one.
      stages: empty for a run without stages.
      warnings: about the weights of `init_from`, logged when they are read.
    """

    config: ml_collections.ConfigDict
    model: Model
    plan: TransferPlan
    preprocessing: Preprocessing
    tasks: tuple[Task, ...]
    options: TrainingOptions
    stages: tuple[Stage, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of all tasks, in the order of the logits."""
        return joint_class_names(self.tasks)

    @property
    def starts_from_weights(self) -> bool:
        """Whether the run starts from the weights of `init_from`."""
        return _starts_from_weights(self.config)

    @property
    def task_sizes(self) -> dict[str, int]:
        """Number of classes of each task by its name."""
        return {task.name: len(task.class_names) for task in self.tasks}

    @property
    def problem(self) -> Problem:
        """What the head learns; of numbers with the scale of the run, if the tasks know it."""
        sizes = tuple(self.task_sizes.values()) if len(self.tasks) > 1 else ()
        loss, scale = self.options.regression_loss, self.tasks[0].scale
        known = None if scale is None else Scale(*scale)
        return problem_of(self.tasks[0].kind, sizes, regression_loss=loss, scale=known)

    def scaled(self, dataset: Dataset) -> "Experiment":
        """The experiment with the scale of its numbers, which the training images give."""
        if dataset.kind != "regression":
            return self
        scale = Scale.of(dataset.train.labels)
        (task,) = self.tasks
        return replace(self, tasks=(replace(task, scale=(scale.mean, scale.deviation)),))

    def setups(self, dataset: Dataset) -> list[Setup]:
        """The setup of each stage; of a run without stages that of the run.

        Raises:
          InputError: if one could not begin.
        """
        whole = Setup(
            self.model,
            self.plan,
            self.options,
            self.preprocessing,
            dataset.train,
            dataset.val,
            dataset.test,
            self.task_sizes if len(self.tasks) > 1 else {},
        )
        if self.stages:
            return checked_stages(whole, self.stages)
        whole.check()
        return [whole]

    def check_first_image(self, dataset: Dataset) -> None:
        """Raises InputError if the first training image has not the channels that are asked for.

        A run asks before it begins, since to begin anew with other channels takes a new workdir.
        """
        if self.config.channels is not None and self.config.on_error == "fail":
            dataset.train[0]

    def read_pretrained(self) -> Tree | None:
        """The weights of `init_from`, fitted to the model; None if the scenario uses none.

        Raises:
          InputError: if they do not fit the model or, with a head that is kept, its classes.
        """
        variables = None
        if self.starts_from_weights:
            size = self.preprocessing.image_size
            variables = pretrained_variables(self.config, self.model, size)
            for warning in self.warnings:
                _log.warning("%s", warning)
        abstract = tracing.abstract_variables(self.model, self.preprocessing.image_shape)
        self.plan.initialise(abstract, variables)
        workdir = None if variables is None else source_workdir(self.config.init_from)
        if variables is not None and workdir is None:
            self._refuse_kept_scale()
        if workdir is not None and self.plan.init[-1] == "pretrained":
            trained = read_tasks(workdir, self.config.data) or self.tasks
            check_classes(self.class_names, joint_class_names(trained), self.config.data, workdir)
            assert variables is not None
            variables = self._kept_head(variables, trained, workdir)
        return variables

    def _refuse_kept_scale(self) -> None:
        """Raises InputError if a head of numbers is kept from a file, which says no scale."""
        if self.plan.init[-1] == "pretrained" and self.tasks[0].kind == "regression":
            raise InputError(
                f"head_init is pretrained, but '{redacted(self.config.init_from)}' does not say in"
                " which units its head predicts numbers; give the run's workdir instead, or set"
                " head_init to solved or zero"
            )

    def _kept_head(self, variables: Tree, trained: Sequence[Task], workdir: Path) -> Tree:
        """Variables whose head predicts what it did in the source, in this run's scale."""
        own, source = self.tasks[0], trained[0]
        if own.kind != source.kind:
            raise InputError(
                f"'{self.config.data}' has labels of the kind {own.kind}, but '{workdir}' was"
                f" trained on the kind {source.kind}; set head_init to solved or zero"
            )
        if own.scale is None or source.scale is None:
            return variables
        params = variables["params"]
        head = Scale(*source.scale).rescale(params["head"], to=Scale(*own.scale))
        return {**variables, "params": {**params, "head": head}}


def build(
    config: ml_collections.ConfigDict,
    tasks: tuple[Task, ...] | None = None,
    *,
    fetch_weights: bool = False,
) -> Experiment:
    """Builds what a config describes; reads no image (but for a hyperrule) and no weight.

    Args:
      config: may be unresolved.
      tasks: that its data is for, if they are known; None: the data is asked.
      fetch_weights: whether a run is about to start from the weights of `init_from`. They are then
        downloaded, once the rest of the config is known to be right, so that what they say about
        their images counts; the experiment has a warning where the config contradicts that.

    Raises:
      InputError: for whatever is wrong in the config; before a run starts also for a source that
        does not beat the naive baseline, unless the config accepts it.
    """
    config = _settle(config)
    tasks = tasks or data.read_tasks(config.data, config.data_dir)
    model = _model(config, tasks)
    plan, stages = _plan(config, model)
    options = _options(config)
    _check_rates(config.trial_lr)
    resolved, preprocessing = _prepare_images(config, model)
    model = registry.at_image_size(model, preprocessing.image_size)
    lora.check(config, plan, tracing.abstract_variables(model, preprocessing.image_shape))
    warnings: tuple[str, ...] = ()
    if fetch_weights and _starts_from_weights(config):  # no slip in the config is left
        doubts = check_source(config)
        fetch_source(config.init_from, config.model)
        warnings = (*doubts, *preprocessing_warnings(config), *channels_warnings(config))
        resolved, preprocessing = _prepare_images(config, model)  # as the weights' files say
        model = registry.at_image_size(model, preprocessing.image_size)
    return Experiment(resolved, model, plan, preprocessing, tasks, options, stages, warnings)


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config without anything that depends on where and when it is read.

    A hyperrule is replaced by its numbers, `init_from` and the folders of `data` become absolute,
    and preprocessing that the config leaves open follows the source of the weights, else the model.
    A workdir keeps the resolved config, and can then be moved, and used without its source.
    Resolving twice changes nothing.
    """
    resolved = _settle(config)
    if resolved.init_from is not None:
        resolved.init_from = weights.absolute(resolved.init_from)
    silent = [field for field in PREPROCESSING_FIELDS if resolved[field] is None]
    if silent:
        source = source_preprocessing(resolved.init_from)
        source = source or registry.spec(resolved.model).preprocessing
        source = source.for_channels(channels_of(resolved))
        for field in silent:
            resolved[field] = getattr(source, field)
    return resolved


def resolve_in(
    config: ml_collections.ConfigDict, workdir: Path
) -> tuple[ml_collections.ConfigDict, bool]:
    """The config as it counts in a workdir, and whether a run has begun there.

    If one has, its preprocessing fills what the config leaves open, without asking the source of
    the weights, which may be gone; and the config is resolved. Else it is returned as it is.

    Raises:
      InputError: if that run has another config.
    """
    before = processes.call_in_first(lambda: _config_of_run(workdir))
    if before is None:
        return config, False
    splits = kept_splits(workdir)
    if config.hyperrule is not None and before.get("hyperrule_chose"):
        config = hyperrules.apply_again(config, before)
    config = hyperrules.settle_again(_settle(config, splits), before)
    for field in PREPROCESSING_FIELDS:
        config[field] = before[field] if config[field] is None else config[field]
    resolved = resolve(config)
    now = json.loads(resolved.to_json())
    if resolved.init_from is not None:
        now["init_from"] = redacted(resolved.init_from)  # as it is kept; a new key is no change
    for field in (*HARMLESS, "mesh"):
        before[field] = now[field]  # if it differs, `fit` says so
    if (
        splits is not None
        and _has_moved(before, now)
        and kept.same_images(load_data(resolved, splits), splits)
    ):
        _log.warning("the data was '%s'; it is '%s' now", before["data"], now["data"])
        before["data"] = now["data"]
    remedy = "use a new workdir, or the config it was made with"
    refuse_changes("config", differences(before, now), workdir, remedy)
    return resolved, True


def kept_splits(workdir: Path | None) -> list[Kept] | None:
    """Which image a run that has begun in the workdir has in which split; None if none has."""
    if workdir is None:
        return None
    return processes.call_in_first(lambda: read_splits(workdir) if has_begun(workdir) else None)


def kept_tasks(config: ml_collections.ConfigDict, workdir: Path | None) -> tuple[Task, ...] | None:
    """The tasks of a run that has begun in the workdir, which may have classes less than the data.

    None if none has begun.
    """
    names = processes.call_in_first(
        lambda: (
            [astuple(task) for task in read_tasks(workdir, config.data) or ()]
            if workdir is not None and has_begun(workdir)
            else []
        )
    )
    return (
        tuple(
            Task(name, tuple(classes), kind, scale and (tuple(scale[0]), tuple(scale[1])))
            for name, classes, kind, scale in names
        )
        or None
    )


def load_data(config: ml_collections.ConfigDict, splits: Sequence[Kept] | None = None) -> Dataset:
    """The config's data set, split and subsampled by its seed; no image is decoded.

    Args:
      config: of the run.
      splits: of a run that has begun, `kept_splits`: its images are in the splits they were in.

    Raises:
      InputError: if the data cannot be found, or, with splits, is no longer that of the run.
    """
    return data.load(
        config.data,
        train_size=config.train_size,
        train_per_class=config.train_per_class,
        val_fraction=config.val_fraction,
        seed=data_seed(config),
        data_dir=config.data_dir,
        kept=splits,
        deep_images=config.deep_images,
        channels=config.channels,
        folds=config.folds,
        fold=config.fold,
    )


def data_seed(config: ml_collections.ConfigDict) -> int:
    """The seed of validation images, folds and subsample; InputError if it is negative."""
    if config.data_seed is None:
        return int(config.seed)
    if config.data_seed < 0:
        raise InputError(f"data_seed is {config.data_seed}; set it to 0 or more")
    return int(config.data_seed)


def _settle(
    config: ml_collections.ConfigDict, splits: Sequence[Kept] | None = None
) -> ml_collections.ConfigDict:
    """The config with absolute paths of its data, and the numbers of its hyperrule, if it has one.

    A hyperrule needs the number of training images: the data is then read.
    """
    config = config.copy_and_resolve_references()
    config.data = data.absolute(config.data)
    if config.data_dir is not None and "://" not in config.data_dir:
        config.data_dir = os.path.abspath(os.path.expanduser(config.data_dir))
    if config.hyperrule is None:
        return config
    whole = config.copy_and_resolve_references()
    if len(split_spec(config.data)) == 1:  # of several, some may bring validation images along
        whole.val_fraction = 0.0  # the rule may set it
    return hyperrules.apply(config, load_data(whole, splits))


def _has_moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the data is somewhere else than when the run began, and may be the same."""
    return before["data"] != now["data"] and data.may_have_moved(before["data"], now["data"])


def _config_of_run(workdir: Path) -> dict[str, Any] | None:
    """The config of the run that a workdir holds, JSON, if it holds one."""
    check_not_foreign(workdir)
    if not is_begun(workdir) and read_result(workdir) is None:
        return None
    config: dict[str, Any] = json.loads(read_config(workdir).to_json())
    return config


def _starts_from_weights(config: ml_collections.ConfigDict) -> bool:
    return config.init_from is not None and config.scenario != "from_scratch"


def _prepare_images(
    config: ml_collections.ConfigDict, model: Model
) -> tuple[ml_collections.ConfigDict, Preprocessing]:
    """The resolved config, and its preprocessing, which fits the model."""
    resolved = resolve(config)
    preprocessing = preprocessing_of(resolved)
    registry.check_image_size(config.model, model, preprocessing.image_size)
    return resolved, preprocessing


def _model(config: ml_collections.ConfigDict, tasks: tuple[Task, ...]) -> Model:
    check_known("dtype", config.dtype, _DTYPES)
    model = registry.create(
        config.model,
        num_classes=sum(len(task.class_names) for task in tasks),
        drop_path=config.drop_path,
        dtype=_DTYPES[config.dtype],
        remat=config.remat,
    )
    if config.last_group is not None:
        model = registry.truncate(config.model, model, config.last_group)
    if (updates := lora.lora_of(config)) is not None:
        model = registry.add_lora(config.model, model, updates)
    return model


def _plan(
    config: ml_collections.ConfigDict, model: Model
) -> tuple[TransferPlan, tuple[Stage, ...]]:
    check_known("head_init", config.head_init, (*HEAD_INITS, "pretrained"))
    if config.position_resampling is not None:
        check_known("position_resampling", config.position_resampling, RESAMPLINGS)
    keeps_head = config.head_init == "pretrained" and config.scenario != "from_scratch"
    plan = scenarios.build(
        config.scenario,
        model.groups,
        {field: config[field] for field in scenarios.FIELDS},
        train=lora.trained_by(config),
        statistics=config.statistics,
        **({"head": "pretrained"} if keeps_head else {}),
    )
    stages = recipes.build(config.stages, plan, {field: config[field] for field in recipes.FIELDS})
    return plan, stages


def _options(config: ml_collections.ConfigDict) -> TrainingOptions:
    options = {name: config[name] for name in OPTION_NAMES}
    if config.head_init == "pretrained":  # the plan keeps it: there is no new head to draw
        del options["head_init"]
    return TrainingOptions(**options)


def _check_rates(rates: Sequence[Any]) -> None:
    """Raises InputError if a rate of `trial_lr` is none."""
    if not all(isinstance(lr, int | float) and 0 < lr < math.inf for lr in rates):
        raise InputError(
            f"trial_lr is {tuple(rates)}; set it to finite numbers above 0, as in"
            " '--config.trial_lr=(0.1, 0.01)', or leave it out"
        )
