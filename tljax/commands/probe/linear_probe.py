"""Linear probing of a frozen model: trains a grid of heads, chooses one, tests it once.

This is DINOv2's linear evaluation, except that images are not augmented. Their features are
therefore computed once, and `heads` trains all heads on them. The head is chosen on validation
images; test images are read once.
"""

import functools
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
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
from tljax.commands.probe.heads import Setting, list_settings, rank_heads, train_heads
from tljax.console import progress_bar
from tljax.data import Dataset, Preprocessing, Source, eval_batches, normalise
from tljax.devices import micro_batches
from tljax.devices.compiler import compiled
from tljax.errors import InputError
from tljax.experiment import Experiment
from tljax.files import replacing
from tljax.frozen.cache import CachedSource
from tljax.models import Model, parameter_count
from tljax.models.probing import all_parts
from tljax.runs import record
from tljax.runs.answers import ANSWERS_FILE, pack_answers
from tljax.runs.checkpoints import Checkpoint, Checkpoints
from tljax.runs.environment import versions
from tljax.runs.metrics import open_metrics
from tljax.runs.workdir import locked, write_atomically
from tljax.training.evaluation import Evaluation, evaluate, naive_accuracy
from tljax.training.options import TrainingOptions
from tljax.training.setup import new_variables
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

_HEAD = "head.safetensors"
_TEST_FIELDS = ("accuracy", "balanced_accuracy", "loss")  # in the order of result.json
# Options of a run that a probe does not use. Those of optimizer, schedule and clip are not listed:
# the grid replaces them.
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
_BATCH = 32  # images in a batch of the feature computation


def compute_features(
    model: Model,
    variables: Tree,
    preprocessing: Preprocessing,
    source: Source,
    name: str,
    progress: bool = False,
) -> CachedSource:
    """Computes what the heads see of a source's images.

    Args:
      model, variables, preprocessing: of the frozen network.
      source: of n images.
      name: of the source, for the progress bar.
      progress: whether to show a progress bar on stderr.

    Returns:
      The features in memory, (n, parts, d), with parts as in `all_parts`.
    """
    compute, parts, done = _compile(model, preprocessing), [], 0
    batches = eval_batches(source, preprocessing, batch_size=_BATCH)
    with closing(iter(batches)) as reader, progress_bar() as bar:
        task = bar.add_task(f"features of {name} images", total=len(source), visible=progress)
        for batch in reader:
            parts.append(np.asarray(compute(variables, batch["image"], batch["mask"])))
            done += len(parts[-1])
            bar.update(task, completed=min(done, len(source)))
    features = np.concatenate(parts)[: len(source)]  # without the padding of the last batch
    return CachedSource(len(model.groups) - 1, features, np.arange(len(source)), source.labels)


@functools.cache
def _compile(model: Model, preprocessing: Preprocessing) -> Callable[..., jax.Array]:
    """Returns the compiled function (variables, images uint8, mask) -> parts."""

    def compute(variables: Tree, images: jax.Array, mask: jax.Array) -> jax.Array:
        def run(images: jax.Array) -> jax.Array:
            return all_parts(model, variables, normalise(images, preprocessing))

        number = micro_batches.choose_parts(model, preprocessing.image_size, len(images))
        return micro_batches.map_in_parts(run, number, images, mask)

    return compiled(compute)


def run_probe(
    config: ml_collections.ConfigDict,
    workdir: Path,
    weight_decays: Sequence[float] = (0.0,),
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains the grid of heads, chooses one on validation images, and tests it once.

    It uses the config's data, model, weights, preprocessing, batch size, epochs or steps, and seed.
    The grid replaces optimizer, learning rate, schedule, decay and clip. It uses one device.

    Args:
      config: of feature extraction, without augmentation.
      workdir: for the result. If it holds the result already, that is returned, and no image is
        read.
      weight_decays: of the grid.
      progress: whether to show progress on stderr.

    Returns:
      The content of `result.json`: the fields of a run, and `probe` with `chosen`, a setting;
      `own_features`, whether the chosen head sees the same features as the model's own, so that
      `tljax evaluate` and `predict` can use the workdir; and `grid`, every setting with its
      `val_accuracy` and `val_loss`.

    Raises:
      InputError: if the config does not keep its features fixed, or the workdir holds something
        else.
    """
    began = time.monotonic()
    config, begun = experiment.resolve_in(config, workdir)
    if done := _read_done(workdir, weight_decays):
        return done
    exp = experiment.build(config, experiment.kept_tasks(config, workdir), fetch_weights=True)
    if not begun:
        experiment.refuse_inside_data(workdir, exp.config.data)
    dataset = experiment.load_data(exp.config, experiment.kept_splits(workdir))
    options = exp.options
    _check(exp, dataset, weight_decays)
    model, size = exp.model, exp.preprocessing.image_size
    given = exp.read_pretrained()
    variables = jax.device_put(exp.plan.initialise(new_variables(model, size, options), given))
    features = functools.partial(
        compute_features, model, variables, exp.preprocessing, progress=progress
    )
    with locked(workdir):
        experiment.keep_config(workdir, exp.tasks, exp.config, None if begun else dataset)
        settings = list_settings(model, options.batch_size, weight_decays)
        steps = options.total_steps(len(dataset.train))
        heads = train_heads(
            model,
            exp.plan,
            settings,
            features(dataset.train, "training"),
            steps=steps,
            batch_size=options.batch_size,
            seed=options.seed,
            progress=progress,
        )
        assert dataset.val is not None
        ranked = rank_heads(model, heads, features(dataset.val, "validation"), options.batch_size)
        chosen = max(settings, key=ranked.__getitem__)  # the first, if several rank equally
        head = heads.params_of(chosen)
        network = {**variables, "params": {**variables["params"], "head": head}}
        result = _describe(exp, dataset, steps, chosen, ranked, variables, head)
        result["probe"] = _describe_grid(chosen, ranked, settings, weight_decays)
        with closing(open_metrics(workdir, None)) as writer:
            examples = steps * options.batch_size
            accuracy, minus_loss = ranked[chosen]
            writer.write("val", steps, examples=examples, accuracy=accuracy, loss=-minus_loss)
            _save(workdir, steps, chosen, network)
            if dataset.test is not None:
                tested = _test(exp, network, chosen, features(dataset.test, "test"))
                values = {"accuracy": tested.accuracy, "loss": tested.loss}
                values["balanced_accuracy"] = tested.balanced_accuracy
                writer.write("test", steps, examples=examples, **values)
                result |= {"test_size": tested.count}
                result |= {f"test_{name}": values[name] for name in _TEST_FIELDS}
                result["naive_accuracy"] = naive_accuracy(dataset.train.labels, tested)
                assert tested.answers is not None
                write_atomically(workdir / ANSWERS_FILE, pack_answers(tested.answers))
        result |= {
            "wall_seconds": round(time.monotonic() - began, 3),
            "devices": [str(device.device_kind) for device in jax.devices()],
            "versions": versions(),
        }
        write_atomically(workdir / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def _read_done(workdir: Path, weight_decays: Sequence[float]) -> dict[str, Any] | None:
    """Returns the result of a finished probe; None if there is none yet.

    Raises:
      InputError: if the workdir holds a run, or a probe with other weight decays.
    """
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
    _log.warning("'%s' holds a finished probe; this is its result", workdir)
    return result


def _describe(
    exp: Experiment,
    dataset: Dataset,
    steps: int,
    chosen: Setting,
    ranked: Mapping[Setting, tuple[float, float]],
    variables: Tree,
    head: Tree,
) -> dict[str, Any]:
    """Returns the fields of `result.json` that are known before the test, without `probe`."""
    config = exp.config
    assert dataset.val is not None
    return {
        "scenario": config.scenario,
        "model": config.model,
        "data": config.data,
        "num_classes": dataset.num_classes,
        "plan": exp.plan.to_json(),
        "train_size": len(dataset.train),
        "val_size": len(dataset.val),
        "seed": exp.options.seed,
        "steps": steps,
        "best_step": steps,
        "val_accuracy": ranked[chosen][0],
        "trainable_parameters": parameter_count(head),
        "total_parameters": parameter_count(variables["params"]),
        "examples_seen": steps * exp.options.batch_size,
    }


def _describe_grid(
    chosen: Setting,
    ranked: Mapping[Setting, tuple[float, float]],
    settings: Sequence[Setting],
    weight_decays: Sequence[float],
) -> dict[str, Any]:
    """Returns the field `probe` of `result.json`."""
    return {
        "chosen": chosen.to_json(),
        "own_features": chosen.features.are_the_models_own,
        "weight_decays": list(weight_decays),
        "grid": [
            {**s.to_json(), "val_accuracy": ranked[s][0], "val_loss": -ranked[s][1]}
            for s in settings
        ],
    }


def _test(exp: Experiment, network: Tree, chosen: Setting, features: CachedSource) -> Evaluation:
    """Evaluates the chosen head on the features of the test images."""
    return evaluate(
        exp.model,
        network,
        replace(features, features=chosen.features.select(features.features)),
        exp.preprocessing,
        exp.options.batch_size,
        with_answers=True,
    )


def _check(exp: Experiment, dataset: Dataset, weight_decays: Sequence[float]) -> None:
    """Raises InputError if the config changes its features, or sets what the heads do not use."""
    config, options = exp.config, exp.options
    for name, wanted in (
        ("scenario", "feature_extraction"),
        ("augment", "none"),
        ("head_init", "zero"),
        ("on_error", "fail"),
        ("stages", None),
    ):
        if config[name] != wanted:
            raise InputError(
                f"{name} is {config[name]}, but a probe's heads start at zero, on features that are"
                f" computed once; set it to {wanted}, e.g. with configs/feature_extraction.py"
            )
    defaults = TrainingOptions()
    for name in _UNUSED:
        if (value := getattr(options, name)) != getattr(defaults, name):
            raise InputError(
                f"{name} is {value}, but a probe's heads minimise plain cross-entropy, every image"
                f" with the same weight; leave {name} out"
            )
    if len(exp.tasks) > 1:
        raise InputError(f"data is {config.data}, but a probe takes one data set; name one of them")
    if not weight_decays or not all(0 <= decay < math.inf for decay in weight_decays):
        raise InputError(
            f"the weight decays are {list(weight_decays)}; set --weight_decays to finite numbers,"
            " not negative, with commas between"
        )
    if dataset.val is None:
        raise InputError(
            f"'{config.data}' has no validation images to choose a head on; give data that has"
        )
    exp.setups(dataset)


def _save(workdir: Path, steps: int, chosen: Setting, network: Tree) -> None:
    """Saves the chosen head and, if it sees the features of the model's own, the whole network."""
    with replacing(workdir / _HEAD) as temporary:
        arrays = {name: np.asarray(leaf) for name, leaf in network["params"]["head"].items()}
        save_file(arrays, temporary, {"features": json.dumps(asdict(chosen.features))})
    if chosen.features.are_the_models_own:
        state = {"count": jnp.int32(steps)}  # a finished probe has no optimizer state to resume
        checkpoints = Checkpoints(workdir / "checkpoints")
        checkpoint = Checkpoint(steps, network, state, bookkeeping=None)
        checkpoints.save(checkpoint, keep=1)
        checkpoints.finish()
