"""From a config to a finished run: data, model, weights and plan, then the loop."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections

from tljax import config as config_lib
from tljax import data as data_lib
from tljax.data import Dataset, Preprocessing
from tljax.errors import InputError, check_known
from tljax.models import Model, registry
from tljax.training.checkpointing import best_variables, has_checkpoint
from tljax.training.evaluation import Evaluation, evaluate, naive_accuracy
from tljax.training.loop import Result, fit, new_variables
from tljax.training.options import HEAD_INITS, OPTION_NAMES, TrainingOptions
from tljax.training.workdir import read_rows, refuse_changes, writable, write_atomically
from tljax.transfer import TransferPlan, scenarios
from tljax.transfer.partition import Tree

NORMALISATIONS = {
    "imagenet": (registry.IMAGENET_MEAN, registry.IMAGENET_STD),
    "half": (registry.HALF, registry.HALF),
}
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Experiment:
    """A config made concrete, but for images and weights."""

    model: Model
    plan: TransferPlan
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    options: TrainingOptions


def prepare(config: ml_collections.ConfigDict) -> Experiment:
    """Builds model, plan and preprocessing; reads no image and no weight."""
    class_names = data_lib.class_names(config.data)
    model = registry.create(
        config.model,
        num_classes=len(class_names),
        drop_path=config.drop_path,
        dtype=_choose("dtype", config.dtype, _DTYPES),
    )
    check_known("head_init", config.head_init, (*HEAD_INITS, "pretrained"))
    keeps_head = config.head_init == "pretrained" and config.scenario != "from_scratch"
    plan = scenarios.build(
        config.scenario,
        model.groups,
        k=config.k,
        backbone_lr_scale=config.backbone_lr_scale,
        layer_decay=config.layer_decay,
        train=config.train,
        statistics=config.statistics,
        **({"head": "pretrained"} if keeps_head else {}),
    )
    preprocessing = preprocessing_of(resolve(config))
    registry.check_image_size(config.model, model, preprocessing.image_size)
    options = {name: config[name] for name in OPTION_NAMES}
    if config.head_init == "pretrained":  # the plan keeps it: there is no new head to draw
        del options["head_init"]
    return Experiment(model, plan, preprocessing, class_names, TrainingOptions(**options))


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with image size and normalisation settled, and `init_from` as an absolute path.

    Where the config is silent the source run's count, then the model's. A workdir keeps the
    resolved config, and can then be moved, and used without its source.
    """
    resolved = config.copy_and_resolve_references()
    source = None
    if config.init_from is not None:
        resolved.init_from = str(Path(config.init_from).absolute())
        if config.image_size is None or config.normalisation is None:
            source = read_config(Path(config.init_from))
    spec = registry.spec(config.model)
    own = next(name for name, pair in NORMALISATIONS.items() if pair == (spec.mean, spec.std))
    for field, default in (("image_size", spec.image_size), ("normalisation", own)):
        if config[field] is None:
            resolved[field] = source[field] if source else default
    return resolved


def preprocessing_of(resolved: ml_collections.ConfigDict) -> Preprocessing:
    """The preprocessing of a resolved config."""
    spec = registry.spec(resolved.model)
    mean, std = _choose("normalisation", resolved.normalisation, NORMALISATIONS)
    return Preprocessing(resolved.image_size, mean, std, spec.interpolation, spec.crop_ratio)


def pretrained_variables(config: ml_collections.ConfigDict) -> Tree | None:
    """The weights of `init_from`, or None.

    Raises:
      InputError: if it holds another model, or no weights.
    """
    if config.init_from is None:
        return None
    source = read_config(Path(config.init_from))
    if source.model != config.model:
        raise InputError(
            f"'{config.init_from}' holds a {source.model}, but model is {config.model}; set"
            f" --config.model={source.model}, or another init_from"
        )
    return best_variables(Path(config.init_from))


def load(
    name: str,
    init_from: str | Path | None = None,
    *,
    num_classes: int,
    image_size: int | None = None,
    seed: int = 0,
) -> tuple[Model, Tree, Preprocessing]:
    """A model by the field's name, with its weights, and the images that they expect.

    Args:
      name: of the model, e.g. `resnet50`.
      init_from: the workdir of a run of that model; None: random weights.
      num_classes: size of the head, which is new (zero); 0: none, the model gives features.
      image_size: in pixels; None: the source's, else the model's own.
      seed: of random weights.

    Raises:
      InputError: for an unknown model, or a workdir that holds none or another.
    """
    config = config_lib.base()
    config.update({"model": name, "image_size": image_size})
    config.init_from = None if init_from is None else str(init_from)
    model = registry.create(name, num_classes)
    preprocessing = preprocessing_of(resolve(config))
    registry.check_image_size(name, model, preprocessing.image_size)
    new = new_variables(model, preprocessing.image_size, TrainingOptions(seed=seed))
    pretrained = pretrained_variables(config)
    if pretrained is not None:
        new = scenarios.feature_extraction(model.groups).initialise(new, pretrained)
    return model, new, preprocessing


def load_data(config: ml_collections.ConfigDict) -> Dataset:
    """The config's data set, carved and subsampled by its seed."""
    return data_lib.load(
        config.data,
        train_size=config.train_size,
        train_per_class=config.train_per_class,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )


def run(config: ml_collections.ConfigDict, workdir: Path) -> Result:
    """`tljax train`: trains what the config says in `workdir`, going on where it stopped.

    A run that is done is not run again: its result is read, and its test images are not.

    Raises:
      InputError: for whatever the user can mend; what the workdir held is still there.
    """
    if has_checkpoint(workdir) and (workdir / "config.json").exists():
        begun = read_config(workdir)
        config = config.copy_and_resolve_references()
        for field in ("image_size", "normalisation"):  # without asking the source, if it is gone
            config[field] = begun[field] if config[field] is None else config[field]
        before, now = json.loads(begun.to_json()), json.loads(resolve(config).to_json())
        refuse_changes(before, now, workdir)
        if (workdir / "result.json").exists():
            summary = json.loads((workdir / "result.json").read_text())
            rows = read_rows(workdir / "metrics.jsonl")
            return Result(summary, best_variables(workdir), rows)
    return fit_config(config, workdir, progress=True)


def fit_config(
    config: ml_collections.ConfigDict, workdir: Path | None = None, *, progress: bool = False
) -> Result:
    """Trains what the config says, in memory, or in a workdir: a new or the same config's."""
    experiment = prepare(config)
    config = resolve(config)
    dataset = load_data(config)
    variables = None
    if "pretrained" in experiment.plan.init and not has_checkpoint(workdir):
        variables = pretrained_variables(config)
    if workdir is not None:
        write_atomically(writable(workdir) / "config.json", config.to_json(indent=2) + "\n")
    about = {
        "scenario": config.scenario,
        "model": config.model,
        "data": config.data,
        "num_classes": len(dataset.class_names),
    }
    return fit(
        experiment.model,
        variables,
        experiment.plan,
        dataset.train,
        dataset.val,
        dataset.test,
        preprocessing=experiment.preprocessing,
        workdir=workdir,
        about=about,
        progress=progress,
        **asdict(experiment.options),
    )


def evaluate_workdir(
    workdir: Path, data: str | None, split: str
) -> tuple[Evaluation, float, str, str]:
    """`tljax evaluate`: the best weights of a workdir on a split of its data, or of other data.

    Returns:
      (evaluation, naive accuracy on the same images, data, split).

    Raises:
      InputError: if it is not a trained workdir, or the data has other classes.
    """
    config = read_config(workdir)
    experiment = prepare(config)
    variables = best_variables(workdir)
    dataset = load_data(config)
    naive_source = dataset.train
    if data is not None:
        dataset = data_lib.load(data, val_fraction=config.val_fraction, seed=config.seed)
        if dataset.class_names != experiment.class_names:
            raise InputError(
                f"'{data}' has the classes {_shorten(dataset.class_names)}, but '{workdir}' was"
                f" trained on {_shorten(experiment.class_names)}; give data of the same classes"
            )
    source = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split]
    if source is None:
        raise InputError(f"'{data or config.data}' has no {split} images; choose another --split")
    evaluation = evaluate(
        experiment.model, variables, source, experiment.preprocessing, config.batch_size
    )
    naive = naive_accuracy(naive_source, source, len(experiment.class_names))
    return evaluation, naive, data or config.data, split


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir.

    Raises:
      InputError: if it is not a workdir.
    """
    path = workdir / "config.json"
    try:
        config = ml_collections.ConfigDict(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"'{workdir}' is not a workdir of tljax: it holds no config.json; give the folder that"
            " `tljax train --workdir` wrote"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {path} ({error}); restore it, or train anew") from None
    return config_lib.complete(config, str(path))


def _shorten(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")


def _choose(field: str, value: str, known: dict[str, Any]) -> Any:
    check_known(field, value, known)
    return known[value]
