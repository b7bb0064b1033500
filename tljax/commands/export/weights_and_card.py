"""Exports weights under the names of a PyTorch library, with a model card."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tljax import experiment, weights
from tljax.commands.convert import Written
from tljax.errors import InputError
from tljax.experiment import Trained
from tljax.files import writable_file
from tljax.models import lora, registry
from tljax.runs.scores import WORDS
from tljax.training.problems import Regression
from tljax.weights import zoo
from tljax.weights.export import family_of, save_exported
from tljax.weights.loading import FORMAT
from tljax.weights.model_card import Export
from tljax.weights.read import read_metadata

_SUFFIX = ".safetensors"
# Fields of a run's result that stand in the card.
_TRAINING_ROWS = ("scenario", "train_size", "seed", "steps", "best_step", "examples_seen")


def export_run(workdir: Path, format: str, output: Path, task: str | None = None) -> Written:
    """Exports a run's best weights, with LoRA's updates merged into them.

    Args:
      workdir: of a run of `tljax train`.
      format: the library, `timm` or `torchvision`.
      output: the file to write; its name ends in `.safetensors`.
      task: the task whose head to export, if the run has several.

    Raises:
      InputError: if the workdir holds no trained run, the library has no such model, or the output
        cannot be written.
    """
    writable_file(output, _SUFFIX)
    trained = experiment.read_workdir(workdir, task)
    exp, result = trained.experiment, trained.result
    model, variables = lora.merge_lora(exp.model, trained.variables)
    if isinstance(trained.problem, Regression) and trained.problem.scale is not None:
        head = trained.problem.scale.rescale(variables["params"]["head"], to=None)
        variables = {**variables, "params": {**variables["params"], "head": head}}
    described = Export(
        trained.config.model,
        model,
        weights.from_variables(variables, str(workdir)),
        exp.preprocessing,
        exp.class_names,
        {
            "Training": _training(trained),
            "Groups, input first: start, and multiplier of the learning rate (0 = frozen)": {
                name: f"{init}, {scale:g}"
                for name, init, scale in zip(
                    model.groups.names, exp.plan.init, exp.plan.lr_scale, strict=True
                )
            },
            "Results": _results(result)
            or {"none": "the run was not finished when these weights were exported"},
            "Source of the weights": _provenance(trained.config.init_from)
            if "pretrained" in exp.plan.init
            else {},
        },
    )
    return _save(described, format, output)


def export_source(
    init_from: str, model_name: str, format: str, output: Path, key: str | None = None
) -> Written:
    """Exports weights from any source but a workdir.

    Args:
      init_from: a name that `tljax models` lists, a file, an address, or a folder that
        `save_pretrained` wrote.
      model_name: the model of these weights.
      format: the library, `timm` or `torchvision`.
      output: the file to write; its name ends in `.safetensors`.
      key: of a file with several networks the one to export.

    Raises:
      InputError: if the source cannot be read or holds another model, the library has no such
        model, or the output cannot be written.
    """
    model = registry.create(model_name, num_classes=0)
    writable_file(output, _SUFFIX)
    family_of(format, model_name, model)
    if experiment.source_workdir(init_from) is not None:
        raise InputError(f"'{init_from}' is a workdir; export its run with --workdir {init_from}")
    loaded = weights.load(init_from, model_name, key)
    preprocessing = weights.find_preprocessing(init_from) or registry.spec(model_name).preprocessing
    source = {"Source of the weights": _provenance(init_from)}
    described = Export(model_name, model, loaded, preprocessing, tables=source)
    return _save(described, format, output)


def _save(described: Export, format: str, output: Path) -> Written:
    family = family_of(format, described.name, described.model)
    card = save_exported(described, format, output)
    return Written(output, len(described.weights.arrays), family.name, card)


def _results(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the card's table of metrics; of numbers the outputs are in their units."""
    metrics = [f"{split}_{name}" for name in WORDS for split in ("val", "test", "naive")]
    return {name: result[name] for name in metrics if result.get(name) is not None}


def _training(trained: Trained) -> dict[str, Any]:
    """Returns the card's table of how the run was trained."""
    config, plan = trained.config, trained.experiment.plan
    rows = {"data": config.data, "init_from": config.init_from}
    rows |= {name: trained.result.get(name) for name in _TRAINING_ROWS}
    rows |= {
        "scenario": config.scenario,
        "stages": config.stages,
        "train": plan.train,
        "statistics": plan.statistics,
    }
    rows |= {name: config[name] for name in ("lora_rank", "lora_alpha", "lora_targets")}
    return {name: value for name, value in rows.items() if value is not None}


def _provenance(init_from: str | None) -> dict[str, Any]:
    """Returns the card's table of where weights come from, back to published ones."""
    if init_from is None:
        return {}
    origins = _origins(init_from)
    rows: dict[str, Any] = {"origin": ", which came from ".join(origins)}
    entry = zoo.entries().get(origins[-1])
    if entry is not None:
        rows |= {
            "licence": entry.licence,
            "trained on": entry.trained_on,
            "address": entry.address,
            "figures from": entry.source,
        }
    return {name: value for name, value in rows.items() if value}


def _origins(init_from: str) -> list[str]:
    """Returns `init_from`, the source of that, and so on, as far as the files still exist."""
    origins = [init_from]
    while (origin := _read_origin(origins[-1])) is not None and origin not in origins:
        origins.append(origin)
    return origins


def _read_origin(init_from: str) -> str | None:
    """Returns what a workdir or a converted file was made from; None if it does not say."""
    path = Path(os.path.expanduser(init_from))
    try:
        if (path / "config.json").is_file():
            return experiment.read_config(path).init_from
        header: Mapping[str, str] = read_metadata(path)
    except InputError:  # the weights at hand are good even if their source is damaged
        return None
    return header.get("origin") if header.get("format") == FORMAT else None
