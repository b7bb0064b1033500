"""From a config to model, plan, preprocessing, options and data."""

from dataclasses import dataclass

import jax.numpy as jnp
import ml_collections

from tljax import data as data_lib
from tljax import weights
from tljax.data import Dataset, Task, names_of_all
from tljax.errors import InputError, check_known
from tljax.experiment import hyperrules
from tljax.experiment import lora as adapters
from tljax.experiment.source import _PREPROCESSING_FIELDS, preprocessing_of, source_preprocessing
from tljax.models import Model, Preprocessing, registry, tracing
from tljax.training.options import HEAD_INITS, OPTION_NAMES, TrainingOptions
from tljax.transfer import Stage, TransferPlan, recipes, scenarios
from tljax.weights.fitting import RESAMPLINGS

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
        model = registry.truncate(config.model, model, config.last_group)
    if (updates := adapters.lora_of(config)) is not None:
        model = registry.add_lora(config.model, model, updates)
    check_known("head_init", config.head_init, (*HEAD_INITS, "pretrained"))
    if config.position_resampling is not None:
        check_known("position_resampling", config.position_resampling, RESAMPLINGS)
    keeps_head = config.head_init == "pretrained" and config.scenario != "from_scratch"
    plan = scenarios.build(
        config.scenario,
        model.groups,
        {field: config[field] for field in scenarios.FIELDS},
        train=adapters.trained_by(config),
        statistics=config.statistics,
        **({"head": "pretrained"} if keeps_head else {}),
    )
    stages = recipes.build(config.stages, plan, {field: config[field] for field in recipes.FIELDS})
    preprocessing = preprocessing_of(resolve(config))
    registry.check_image_size(config.model, model, preprocessing.image_size)
    adapters.check(config, plan, tracing.abstract_variables(model, preprocessing.image_size))
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
        resolved.init_from = weights.absolute(config.init_from)
    silent = [field for field in _PREPROCESSING_FIELDS if config[field] is None]
    if silent:
        source = source_preprocessing(config.init_from)
        source = source or registry.spec(config.model).preprocessing
        source = source.for_channels(3)  # which is what data sets give
        for field in silent:
            resolved[field] = getattr(source, field)
    return resolved


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
