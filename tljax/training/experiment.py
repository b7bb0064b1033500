"""From a config to a finished run: data, model, weights and plan, then the loop."""

import json
import logging
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from tljax import checkpoints
from tljax import config as config_lib
from tljax import data as data_lib
from tljax.checkpoints.fitting import RESAMPLINGS
from tljax.data import Dataset, Task, names_of_all
from tljax.errors import InputError, check_known
from tljax.files import parse_json
from tljax.models import ImageSize, Model, Preprocessing, lora, registry
from tljax.models.preprocessing import parse_normalisation
from tljax.training import adapters, hyperrules, processes
from tljax.training.checkpointing import best_variables
from tljax.training.evaluation import Evaluation, evaluate, naive_accuracy
from tljax.training.loop import Result, fit
from tljax.training.options import HARMLESS, HEAD_INITS, OPTION_NAMES, TrainingOptions
from tljax.training.preparation import check_fit, new_variables
from tljax.training.stages import all_rows, check_stages, fit_stages, has_begun
from tljax.training.tasks import spans, with_head_of
from tljax.training.workdir import (
    differences,
    locked,
    refuse_changes,
    write_atomically,
)
from tljax.transfer import Stage, TransferPlan, recipes, scenarios
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

# The fields that say how images are prepared; where one is None the source of the weights decides.
_PREPROCESSING_FIELDS = ("image_size", "normalisation", "interpolation", "crop_ratio")
_CLASSES = "classes.json"  # in a workdir: the names of the classes, in the order of the logits
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Experiment:
    """A config made concrete, but for images and weights.

    Of a run in stages `plan` says where the groups start in the first one, and what moves in the
    last; `stages` is empty where there are none.
    """

    model: Model
    plan: TransferPlan
    preprocessing: Preprocessing
    tasks: tuple[Task, ...]
    options: TrainingOptions
    stages: tuple[Stage, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all tasks, in the order of the logits."""
        return names_of_all(self.tasks)

    @property
    def task_sizes(self) -> dict[str, int]:
        """Number of classes of each task by its name."""
        return {task.name: len(task.class_names) for task in self.tasks}


@dataclass(frozen=True)
class Trained:
    """What a workdir holds.

    Attributes:
      workdir: where it lies.
      config: resolved.
      experiment: what it made of the config.
      variables: the best weights.
      result: the fields of `result.json`; empty while the run is not done.
    """

    workdir: Path
    config: ml_collections.ConfigDict
    experiment: Experiment
    variables: Tree
    result: dict[str, Any]


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
      experiment: the config made concrete.
      config: resolved.
      dataset: with all of its splits; no image has been read.
      pretrained: reads the weights of `init_from`; gives None if the scenario wants none.
    """

    experiment: Experiment
    config: ml_collections.ConfigDict
    dataset: Dataset
    pretrained: Callable[[], Tree | None]

    def checked_weights(self) -> Tree | None:
        """The pretrained weights; InputError, before anything is written, if they do not fit."""
        variables = self.pretrained()
        _check_start(self.experiment, self.config, variables)
        return variables


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, the naive accuracy on the same images, and which images they are."""

    evaluation: Evaluation
    naive: float
    data: str
    split: str


def prepare(config: ml_collections.ConfigDict, tasks: tuple[Task, ...] | None = None) -> Experiment:
    """Builds model, plan and preprocessing; reads no image and no weight.

    Args:
      config: may be unresolved; only for a hyperrule images are read.
      tasks: that its data is for, if they are known; None: the data is asked.
    """
    config = settled(config)
    tasks = tasks or data_lib.tasks(config.data, config.data_dir)
    check_known("dtype", config.dtype, _DTYPES)
    model = registry.create(
        config.model,
        num_classes=sum(len(task.class_names) for task in tasks),
        drop_path=config.drop_path,
        dtype=_DTYPES[config.dtype],
        remat=config.remat,
    )
    if config.last_group is not None:
        model = registry.truncated(config.model, model, config.last_group)
    if (updates := adapters.lora_of(config)) is not None:
        model = registry.adapted(config.model, model, updates)
    check_known("head_init", config.head_init, (*HEAD_INITS, "pretrained"))
    if config.position_resampling is not None:
        check_known("position_resampling", config.position_resampling, RESAMPLINGS)
    keeps_head = config.head_init == "pretrained" and config.scenario != "from_scratch"
    plan = scenarios.build(
        config.scenario,
        model.groups,
        k=config.k,
        k_last=config.k_last,
        init_k=config.init_k,
        backbone_lr_scale=config.backbone_lr_scale,
        layer_decay=config.layer_decay,
        lr_spread=config.lr_spread,
        train=adapters.trained_by(config),
        statistics=config.statistics,
        **({"head": "pretrained"} if keeps_head else {}),
    )
    of_stages = {name: config[name] for name in ("probe_share", "probe_lr", "groups_per_stage")}
    recipes.check_unused(config.stages, **of_stages)
    stages = recipes.build(config.stages, plan, **of_stages) if config.stages is not None else ()
    preprocessing = preprocessing_of(resolve(config))
    registry.check_image_size(config.model, model, preprocessing.image_size)
    adapters.check(config, plan, registry.abstract_variables(model, preprocessing.image_size))
    options = {name: config[name] for name in OPTION_NAMES}
    if config.head_init == "pretrained":  # the plan keeps it: there is no new head to draw
        del options["head_init"]
    return Experiment(model, plan, preprocessing, tasks, TrainingOptions(**options), stages)


def settled(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with the numbers of its hyperrule, if it has one, for which its data is read."""
    if config.hyperrule is None:
        return config
    return hyperrules.apply(config, load_data(config).train)


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with its preprocessing settled, and `init_from` in a form that means the same
    from any folder.

    Where the config is silent the source of the weights counts, then the model. A workdir keeps the
    resolved config, and can then be moved, and used without its source.
    """
    resolved = config.copy_and_resolve_references()
    if config.init_from is not None:
        resolved.init_from = checkpoints.absolute(config.init_from)
    silent = [field for field in _PREPROCESSING_FIELDS if config[field] is None]
    if silent:
        source = source_preprocessing(config.init_from)
        source = source or registry.spec(config.model).preprocessing
        source = source.for_channels(3)  # which is what data sets give
        for field in silent:
            resolved[field] = getattr(source, field)
    return resolved


def preprocessing_of(resolved: ml_collections.ConfigDict) -> Preprocessing:
    """The preprocessing of a resolved config."""
    mean, std = parse_normalisation(resolved.normalisation)
    return Preprocessing(
        resolved.image_size, mean, std, resolved.interpolation, resolved.crop_ratio
    )


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
    return checkpoints.variables_for(
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
        model = registry.truncated(name, model, last_group)
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
    pretrained = checkpoints.variables_for(source, model, size, in_channels, position_resampling)
    return model, plan.initialise(new, pretrained), preprocessing


def _workdir(init_from: str) -> Path | None:
    """The folder that `init_from` names, if it names one."""
    path = checkpoints.as_path(init_from)
    return path if path is not None and path.is_dir() else None


def read_source(init_from: str, model_name: str) -> checkpoints.Checkpoint:
    """The weights of a workdir, with LoRA merged, or of a checkpoint, under our names."""
    workdir = _workdir(init_from)
    if workdir is None:
        return checkpoints.load(init_from, model_name)
    if not (workdir / "checkpoints").is_dir():
        raise InputError(
            f"the folder '{init_from}' is not a workdir of tljax that holds weights; give one that"
            " does, or a checkpoint file itself"
        )
    config = read_config(workdir)
    checkpoints.check_model(init_from, config.model, model_name)
    variables = lora.fold(adapters.lora_of(config), best_variables(workdir))
    return checkpoints.of_variables(variables, init_from)


def _fetch(init_from: str, model_name: str) -> None:
    if _workdir(init_from) is None:
        checkpoints.fetch(init_from, model_name)


def source_preprocessing(init_from: str | None) -> Preprocessing | None:
    """What the source of the weights says of its images; None if it says nothing."""
    if init_from is None:
        return None
    workdir = _workdir(init_from)
    if workdir is not None:
        return preprocessing_of(read_config(workdir))
    return checkpoints.preprocessing_of(init_from)


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


def load_data(config: ml_collections.ConfigDict) -> Dataset:
    """The config's data set, carved and subsampled by its seed."""
    return data_lib.load(
        config.data,
        train_size=config.train_size,
        train_per_class=config.train_per_class,
        val_fraction=config.val_fraction,
        seed=_data_seed(config),
        data_dir=config.data_dir,
    )


def _data_seed(config: ml_collections.ConfigDict) -> int:
    """The seed of the validation images and the subsample; InputError if it is negative."""
    if config.data_seed is None:
        return int(config.seed)
    if config.data_seed < 0:
        raise InputError(f"data_seed is {config.data_seed}; set it to 0 or more")
    return int(config.data_seed)


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    accept_changes: bool = False,
    progress: bool = True,
    profile: bool = False,
    called: float | None = None,
) -> Result:
    """`tljax train`: trains what the config says in `workdir`, going on where it stopped.

    A run that is done is not run again: its result is read, and its test images are not. The
    arguments are those of `fit`.

    Raises:
      InputError: for whatever the user can mend; what the workdir held is still there.
    """
    config = as_begun(config, workdir)
    done = processes.first_says(lambda: _done(workdir))
    if done is not None:
        _log.warning("'%s' holds a run that is done: this is its result", workdir)
        return Result(done[0], best_variables(workdir) if processes.is_first() else {}, done[1])
    return fit_config(
        config,
        workdir,
        accept_changes=accept_changes,
        progress=progress,
        profile=profile,
        called=called,
    )


def is_begun(workdir: Path) -> bool:
    """Whether a run has begun in this workdir."""
    return has_begun(workdir) and (workdir / "config.json").exists()


def as_begun(config: ml_collections.ConfigDict, workdir: Path) -> ml_collections.ConfigDict:
    """The config, where it is silent as the run in the workdir began, if one did.

    Raises:
      InputError: if that run has another config.
    """
    config = settled(config)
    before = processes.first_says(lambda: _begun(workdir))
    if before is None:
        return config
    config = config.copy_and_resolve_references()
    for field in _PREPROCESSING_FIELDS:  # without asking the source, if it is gone
        config[field] = before[field] if config[field] is None else config[field]
    now = json.loads(resolve(config).to_json())
    for field in (*HARMLESS, "mesh"):
        before[field] = now[field]  # if it differs, `fit` says so
    remedy = "use a new workdir, or the config it was made with"
    refuse_changes("config", differences(before, now), workdir, remedy)
    return config


def _begun(workdir: Path) -> dict[str, Any] | None:
    """The config of the run that a workdir holds, JSON, if it holds one."""
    if not is_begun(workdir) and read_result(workdir) is None:
        return None
    begun: dict[str, Any] = json.loads(read_config(workdir).to_json())
    return begun


def _done(workdir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The result and the rows of a workdir's run, if it is done."""
    result = read_result(workdir) if is_begun(workdir) else None
    return None if result is None else (result, all_rows(workdir))


def read_result(workdir: Path) -> dict[str, Any] | None:
    """The fields of `result.json`; None while the run is not done."""
    content: dict[str, Any] | None = _read_if_there(workdir / "result.json", dict)
    return content


def fit_config(
    config: ml_collections.ConfigDict,
    workdir: Path | None = None,
    *,
    accept_changes: bool = False,
    progress: bool = False,
    profile: bool = False,
    called: float | None = None,
) -> Result:
    """Trains what the config says, in memory, or in a workdir: a new or the same config's."""
    begun = processes.first_says(lambda: has_begun(workdir))
    beginning = start(config, begun)
    experiment, resolved, dataset = beginning.experiment, beginning.config, beginning.dataset
    weights = beginning.pretrained
    if not begun:
        held = [beginning.checked_weights()]
        weights = held.pop  # whoever takes them out of there can give up their memory
    size = experiment.preprocessing.image_size
    splits = (dataset.train, dataset.val, dataset.test)
    if experiment.stages:
        check_stages(experiment.model, experiment.stages, experiment.options, size, *splits)
    else:
        check_fit(experiment.model, experiment.plan, experiment.options, size, *splits)
    with locked(workdir):
        if workdir is not None:
            processes.first_says(lambda: keep_config(workdir, experiment.tasks, resolved))
        about = {
            "scenario": resolved.scenario,
            "model": resolved.model,
            "data": resolved.data,
            "num_classes": len(dataset.class_names),
        }
        given: dict[str, Any] = {
            "preprocessing": experiment.preprocessing,
            "tasks": experiment.task_sizes if len(experiment.tasks) > 1 else None,
            "workdir": workdir,
            "about": about,
            "accept_changes": accept_changes,
            "progress": progress,
            "profile": profile,
            "called": called,
            **asdict(experiment.options),
        }
        if experiment.stages:
            return fit_stages(experiment.model, weights, experiment.stages, *splits, **given)
        return fit(experiment.model, weights, experiment.plan, *splits, **given)


def start(config: ml_collections.ConfigDict, begun: bool = False) -> Start:
    """Finds the data, and fetches the weights, of a config's run.

    Args:
      config: may be unresolved.
      begun: whether there is a checkpoint to go on from, so that no weights are fetched.
    """
    config = settled(config)
    has_source = config.init_from is not None and config.scenario != "from_scratch"
    if has_source and not begun:
        prepare(config)  # a slip in the config is found before anything is downloaded
        _fetch(config.init_from, config.model)  # what the file says of its images counts below
    experiment = prepare(config)
    resolved = resolve(config)

    def pretrained() -> Tree | None:
        if not has_source:
            return None
        image_size = experiment.preprocessing.image_size
        variables = pretrained_variables(resolved, experiment.model, image_size)
        _warn_of_preprocessing(config)
        return variables

    return Start(experiment, resolved, load_data(resolved), pretrained)


def evaluate_workdir(
    workdir: Path, split: str, task: str | None = None, data_dir: str | None = None
) -> list[Evaluated]:
    """`tljax evaluate`: the best weights of a workdir on a split of its data.

    Of a run of several tasks each is evaluated on its own data, or the one named alone.

    Args:
      workdir: of a run of `tljax train`.
      split: train, val or test.
      task: of several.
      data_dir: where `tfds:` data lies; None: where the config says.

    Raises:
      InputError: if it is not a trained workdir, or its data have other classes by now.
    """
    names = [task] if task is not None else [known.name for known in tasks_of(workdir)]
    return [evaluate_trained(read_workdir(workdir, name), None, split, data_dir) for name in names]


def evaluate_trained(
    trained: Trained, data: str | None, split: str, data_dir: str | None = None
) -> Evaluated:
    """The weights of one task on a split of its data, or of other data of the same classes."""
    config, experiment = trained.config, trained.experiment
    dataset = same_classes(trained, data, data_dir)
    source = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split]
    if source is None:
        raise InputError(f"'{data or config.data}' has no {split} images; choose another --split")
    evaluation = evaluate(
        experiment.model,
        trained.variables,
        source,
        experiment.preprocessing,
        config.batch_size,
        on_error=config.on_error,
    )
    if evaluation.skipped:
        _log.warning(data_lib.skipped_message(evaluation.skipped))
    naive = naive_accuracy(dataset.train, evaluation)
    return Evaluated(evaluation, naive, data or config.data, split)


def same_classes(trained: Trained, data: str | None, data_dir: str | None = None) -> Dataset:
    """The data of a run of one task, or other data, if it has the same classes; else InputError."""
    config = trained.config.copy_and_resolve_references()
    data = data or config.data
    if data_dir is not None or not data.startswith("tfds:"):
        config.data_dir = data_dir
    if data == config.data:
        dataset = load_data(config)
    else:
        dataset = data_lib.load(
            data,
            val_fraction=config.val_fraction,
            seed=_data_seed(config),
            data_dir=config.data_dir,
        )
    known = trained.experiment.class_names
    _check_classes(dataset.class_names, known, data, trained.workdir)
    return dataset


def read_workdir(workdir: Path, task: str | None = None) -> Trained:
    """The best weights of a workdir, and what they are; its data is not needed.

    Of a run of several tasks this is what a run of `task` alone would have left.

    Raises:
      InputError: if it is not a workdir, or holds no weights; or if it has several tasks and none
        of them is named.
    """
    config = read_config(workdir)
    result = read_result(workdir) or {}
    tasks = tasks_of(workdir)
    whole = Trained(workdir, config, prepare(config, tasks), best_variables(workdir), result)
    if task is None and len(tasks) == 1:
        return whole
    names = [known.name for known in tasks]
    if task is None:
        raise InputError(
            f"'{workdir}' was trained on several tasks ({', '.join(names)}); choose one with --task"
        )
    check_known("task", task, names)
    return _alone(whole, names.index(task)) if len(tasks) > 1 else whole


def _alone(whole: Trained, number: int) -> Trained:
    """Of a run of several tasks, the one of that number."""
    experiment, config = whole.experiment, whole.config.copy_and_resolve_references()
    task = experiment.tasks[number]
    span = spans(list(experiment.task_sizes.values()))[number]
    model, variables = with_head_of(experiment.model, whole.variables, *span)
    config.data = task.name
    result = {name: value for name, value in whole.result.items() if name != "tasks"}
    result |= whole.result.get("tasks", {}).get(task.name, {})
    return Trained(
        whole.workdir,
        config,
        replace(experiment, model=model, tasks=(task,)),
        variables,
        result | ({"data": task.name} if result else {}),
    )


def tasks_of(workdir: Path) -> tuple[Task, ...]:
    """The tasks that a workdir was trained on, or is to be; a folder of images may change later.

    Raises:
      InputError: if it is not a workdir.
    """
    config = read_config(workdir)
    return _kept_tasks(workdir, config.data) or data_lib.tasks(config.data, config.data_dir)


def task_for(workdir: Path, data: str, data_dir: str | None = None) -> str | None:
    """Which of a run's tasks other data are for: the one of the same classes; None: there is one.

    Raises:
      InputError: if none has these classes, or several have them.
    """
    tasks, classes = tasks_of(workdir), data_lib.class_names(data, data_dir)
    if len(tasks) == 1:
        return None
    fitting = [task.name for task in tasks if task.class_names == classes]
    if len(fitting) != 1:
        why = f"those of {' and '.join(fitting)}" if fitting else "those of none of its tasks"
        raise InputError(
            f"'{data}' has the classes {_shorten(classes)}, {why} in '{workdir}'; choose one of"
            f" {', '.join(task.name for task in tasks)} with --task, or other data"
        )
    return fitting[0]


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir.

    Raises:
      InputError: if it is not a workdir.
    """
    path = workdir / "config.json"
    try:
        config = ml_collections.ConfigDict(parse_json(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"'{workdir}' is not a workdir of tljax: it holds no config.json; give the folder that"
            " `tljax train --workdir` wrote"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    return config_lib.complete(config, str(path))


def _check_start(
    experiment: Experiment, config: ml_collections.ConfigDict, variables: Tree | None
) -> None:
    """Raises InputError if the run could not begin; to be asked before anything is written."""
    plan, size = experiment.plan, experiment.preprocessing.image_size
    plan.initialise(registry.abstract_variables(experiment.model, size), variables)
    source = _workdir(config.init_from) if variables is not None else None
    if source is not None and plan.init[-1] == "pretrained":
        before = _kept_tasks(source, config.data) or experiment.tasks
        _check_classes(experiment.class_names, names_of_all(before), config.data, source)


def keep_config(workdir: Path, tasks: tuple[Task, ...], config: ml_collections.ConfigDict) -> None:
    """Writes down the config, and which logit is which class, as a folder of images may change.

    A list of names, or, of several tasks, a list for each by its name.
    """
    data = tasks[0].name if len(tasks) == 1 else ""
    before = _kept_tasks(workdir, data) if has_begun(workdir) else None
    _check_classes(names_of_all(tasks), names_of_all(before or tasks), "the data", workdir)
    content: Any = tasks[0].class_names
    if len(tasks) > 1:
        content = {task.name: task.class_names for task in tasks}
    write_atomically(workdir / _CLASSES, json.dumps(content) + "\n")
    write_atomically(workdir / "config.json", config.to_json(indent=2) + "\n")


def _kept_tasks(workdir: Path, data: str) -> tuple[Task, ...] | None:
    """The tasks that a workdir was trained on, in the order of its logits, if it says so.

    Args:
      workdir: of a run.
      data: the name of its task, if it has one.
    """
    content = _read_if_there(workdir / _CLASSES, list | dict)
    if isinstance(content, list):
        content = {data: content}
    return tuple(Task(name, tuple(names)) for name, names in content.items()) if content else None


def _check_classes(
    names: tuple[str, ...], trained: tuple[str, ...], data: str, workdir: Path
) -> None:
    if names != trained:
        raise InputError(
            f"'{data}' has the classes {_shorten(names)}, but '{workdir}' was trained on"
            f" {_shorten(trained)}; give data of the same classes"
        )


def _read_if_there(path: Path, kind: type | types.UnionType) -> Any:
    """The content of a JSON file of a workdir, which has to be of a kind; None if there is none."""
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    if not isinstance(content, kind):
        raise InputError(f"{path} is not what a run of tljax writes; restore it, or train anew")
    return content


def _shorten(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
