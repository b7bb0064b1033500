"""`tljax probe`: many linear heads on frozen features; validation chooses, test is asked once.

DINOv2's linear evaluation, but that images are not augmented: their features are computed once, and
`probe_grid` trains all heads on them.
"""

import functools
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from safetensors.numpy import save_file

from tljax import experiment
from tljax.commands.probe.grid import Setting, grid, ranks, train_heads
from tljax.data import Dataset, Preprocessing, Source, eval_batches, normalise
from tljax.devices import micro_batches
from tljax.devices.compiler import compiled
from tljax.errors import InputError
from tljax.experiment import Experiment
from tljax.files import replacing
from tljax.models import Model, parameter_count
from tljax.models.probing import parts_of
from tljax.runs import record
from tljax.runs.answers import ANSWERS_FILE, pack_answers
from tljax.runs.checkpoints import Checkpoint, Checkpoints
from tljax.runs.environment import versions
from tljax.runs.metrics import open_metrics
from tljax.runs.workdir import locked, write_atomically
from tljax.training.evaluation import evaluate, naive_accuracy
from tljax.training.feature_cache import CachedSource
from tljax.training.options import TrainingOptions
from tljax.training.progress import progress_bar
from tljax.training.setup import new_variables
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

_HEAD = "head.safetensors"
# Of a run, but not of a probe; optimizer, its numbers, schedule and clip are the grid's own.
_UNUSED = (
    "class_weights",
    "cutmix",
    "ema",
    "l2_sp_alpha",
    "l2_sp_beta",
    "label_smoothing",
    "mixup",
    "patience",
    "sampling",
)
_BATCH = 32  # images whose features are computed at once


def features_of(
    model: Model,
    variables: Tree,
    preprocessing: Preprocessing,
    source: Source,
    name: str,
    progress: bool = False,
) -> CachedSource:
    """What heads see of a source's images, in memory: (n, parts, d), as of `parts_of`."""
    compute, parts, done = _compute(model, preprocessing), [], 0
    batches = eval_batches(source, preprocessing, batch_size=_BATCH)
    with closing(iter(batches)) as reader, progress_bar() as bar:
        task = bar.add_task(f"features of {name} images", total=len(source), visible=progress)
        for batch in reader:
            parts.append(np.asarray(compute(variables, batch["image"], batch["mask"])))
            done += len(parts[-1])
            bar.update(task, completed=min(done, len(source)))
    features = np.concatenate(parts)[: len(source)]
    return CachedSource(len(model.groups) - 1, features, np.arange(len(source)), source.labels)


@functools.cache
def _compute(model: Model, preprocessing: Preprocessing) -> Callable[..., jax.Array]:
    """The compiled function (variables, images uint8, mask) -> parts."""

    def compute(variables: Tree, images: jax.Array, mask: jax.Array) -> jax.Array:
        def run(images: jax.Array) -> jax.Array:
            return parts_of(model, variables, normalise(images, preprocessing))

        number = micro_batches.choose_parts(model, preprocessing.image_size, len(images))
        return micro_batches.map_in_parts(run, number, images, mask)

    return compiled(compute)


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    weight_decays: Sequence[float] = (0.0,),
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """`tljax probe`: trains the grid, chooses on validation images, and tests the choice once.

    Of the config count data, model, weights, preprocessing, batch size, epochs or steps, and seed;
    optimizer, learning rate, schedule, decay and clip are the grid's. It runs on one device.

    Args:
      config: of feature extraction, without augmentation.
      workdir: for the result; one that holds it already is read, and no test image is.
      weight_decays: of the grid.
      progress: whether to show progress on stderr.

    Returns:
      The fields of `result.json`: those of a run, and `probe`: `chosen`, a setting; `own_features`,
      whether its head fits the model, so that the workdir serves `tljax evaluate` and `predict`;
      and `grid`, every setting with its `val_accuracy` and `val_loss`.

    Raises:
      InputError: if the config is not of fixed features, or the workdir holds something else.
    """
    began = time.monotonic()
    config, _ = experiment.resolve_in(config, workdir)
    if done := _done(workdir, weight_decays):
        return done
    exp = experiment.build(config, fetch_weights=True)
    dataset, opt = experiment.load_data(exp.config), exp.options
    _check(exp, dataset, weight_decays)
    model, size = exp.model, exp.preprocessing.image_size
    given = exp.read_pretrained()
    variables = jax.device_put(exp.plan.initialise(new_variables(model, size, opt), given))
    with locked(workdir):
        experiment.keep_config(workdir, exp.tasks, exp.config)

        def seen(name: str, source: Source) -> CachedSource:
            return features_of(model, variables, exp.preprocessing, source, name, progress)

        assert dataset.val is not None
        settings = grid(model, opt.batch_size, weight_decays)
        steps = opt.total_steps(len(dataset.train))
        heads = train_heads(
            model,
            exp.plan,
            settings,
            seen("training", dataset.train),
            steps=steps,
            batch_size=opt.batch_size,
            seed=opt.seed,
            progress=progress,
        )
        ranked = ranks(model, heads, seen("validation", dataset.val), opt.batch_size)
        chosen = max(settings, key=ranked.__getitem__)  # of equal ones the first
        head = heads.params_of(chosen)
        network = {**variables, "params": {**variables["params"], "head": head}}
        summary = {
            "scenario": exp.config.scenario,
            "model": exp.config.model,
            "data": exp.config.data,
            "num_classes": dataset.num_classes,
            "plan": exp.plan.to_json(),
            "train_size": len(dataset.train),
            "val_size": len(dataset.val),
            "seed": opt.seed,
            "steps": steps,
            "best_step": steps,
            "val_accuracy": ranked[chosen][0],
            "trainable_parameters": parameter_count(head),
            "total_parameters": parameter_count(variables["params"]),
            "examples_seen": steps * opt.batch_size,
            "probe": {
                "chosen": chosen.to_json(),
                "own_features": chosen.features.are_the_models_own,
                "weight_decays": list(weight_decays),
                "grid": [
                    {**s.to_json(), "val_accuracy": ranked[s][0], "val_loss": -ranked[s][1]}
                    for s in settings
                ],
            },
        }
        with closing(open_metrics(workdir, None)) as writer:
            examples = steps * opt.batch_size
            values = {"accuracy": ranked[chosen][0], "loss": -ranked[chosen][1]}
            writer.write("val", steps, examples=examples, **values)
            _save(workdir, steps, chosen, network)
            if dataset.test is not None:
                parts = seen("test", dataset.test)
                final = evaluate(
                    model,
                    network,
                    replace(parts, features=chosen.features.of(parts.features)),
                    exp.preprocessing,
                    opt.batch_size,
                    with_answers=True,
                )
                values = {"accuracy": final.accuracy, "loss": final.loss}
                values["balanced_accuracy"] = final.balanced_accuracy
                writer.write("test", steps, examples=examples, **values)
                summary |= {
                    "test_size": final.count,
                    "test_accuracy": final.accuracy,
                    "test_balanced_accuracy": final.balanced_accuracy,
                    "test_loss": final.loss,
                    "naive_accuracy": naive_accuracy(dataset.train, final),
                }
                assert final.answers is not None
                write_atomically(workdir / ANSWERS_FILE, pack_answers(final.answers))
        summary |= {
            "wall_seconds": round(time.monotonic() - began, 3),
            "devices": [str(device.device_kind) for device in jax.devices()],
            "versions": versions(),
        }
        write_atomically(workdir / "result.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _done(workdir: Path, weight_decays: Sequence[float]) -> dict[str, Any] | None:
    """The result of a grid that is done; InputError if the workdir holds anything else."""
    result = record.read_result(workdir)
    if result is None and not (experiment.is_begun(workdir) and not (workdir / _HEAD).exists()):
        return None
    if result is None or "probe" not in result:
        raise InputError(
            f"'{workdir}' holds a run of `tljax train`; choose another --workdir for a probe"
        )
    before = result["probe"]["weight_decays"]
    if before != list(weight_decays):
        raise InputError(
            f"'{workdir}' holds a probe with weight decays {before}, not {list(weight_decays)};"
            " choose another --workdir"
        )
    _log.warning("'%s' holds a probe that is done: this is its result", workdir)
    return result


def _check(exp: Experiment, dataset: Dataset, weight_decays: Sequence[float]) -> None:
    """Raises InputError if the config has no fixed features, or asks for what heads do not do."""
    config, opt = exp.config, exp.options
    for name, wanted in (
        ("scenario", "feature_extraction"),
        ("augment", "none"),
        ("head_init", "zero"),
        ("on_error", "fail"),
        ("stages", None),
    ):
        if config[name] != wanted:
            raise InputError(
                f"{name} is {config[name]}, but a probe's heads start at zero on features that are"
                f" computed once; set it to {wanted}, e.g. with configs/feature_extraction.py"
            )
    usual = TrainingOptions()
    for name in _UNUSED:
        if (value := getattr(opt, name)) != getattr(usual, name):
            raise InputError(
                f"{name} is {value}, which a probe's heads know nothing of: they minimise"
                f" cross-entropy over all images alike; leave {name} out"
            )
    if len(exp.tasks) > 1:
        raise InputError(f"data is {config.data}, but a probe is of one data set; name one of them")
    if not weight_decays or not all(0 <= decay < math.inf for decay in weight_decays):
        raise InputError(
            f"the weight decays are {list(weight_decays)}; set --weight_decays to finite numbers,"
            " not negative, with commas between"
        )
    if dataset.val is None:
        raise InputError(
            f"'{config.data}' has no validation images to choose on; give data that has"
        )
    exp.setups(dataset)


def _save(workdir: Path, steps: int, chosen: Setting, network: Tree) -> None:
    """The chosen head, and, if it sees what the model's own does, the whole network."""
    with replacing(workdir / _HEAD) as temporary:
        arrays = {name: np.asarray(leaf) for name, leaf in network["params"]["head"].items()}
        save_file(arrays, temporary, {"features": json.dumps(asdict(chosen.features))})
    if chosen.features.are_the_models_own:
        nothing = {"count": jnp.int32(steps)}  # there is no training to go on with
        checkpoint = Checkpoint(steps, network, nothing, progress=None)
        checkpoints = Checkpoints(workdir / "checkpoints")
        checkpoints.save(checkpoint, keep=1, best_step=steps)
        checkpoints.close()
