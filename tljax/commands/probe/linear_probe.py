"""Linear probing of a frozen model: solves or trains heads, chooses one, tests it once.

Images are not augmented, so their features are computed once. With `optimizer=lbfgs`, `solved`
solves a head for each choice of features, and cross-validation chooses one. Otherwise this is
DINOv2's linear evaluation: `heads` trains a grid of heads, and validation images choose one. Test
images are read once.
"""

import functools
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from safetensors.numpy import save_file

from tljax import experiment
from tljax.commands.probe.features import compute_features
from tljax.commands.probe.heads import list_settings, rank_heads, train_heads
from tljax.commands.probe.solved import choose_features, describe_choice, solve_choices
from tljax.data import Dataset, groups_of, kind_of
from tljax.data.sources import weights_of
from tljax.errors import InputError
from tljax.experiment import Experiment
from tljax.files import replacing
from tljax.frozen.cache import CachedSource
from tljax.models import parameter_count
from tljax.models.probing import Features, choices
from tljax.runs import record
from tljax.runs.answers import ANSWERS_FILE, pack_answers
from tljax.runs.baseline import compare_result
from tljax.runs.checkpoints import Checkpoint, Checkpoints
from tljax.runs.environment import versions
from tljax.runs.metrics import open_metrics
from tljax.runs.workdir import locked, write_atomically
from tljax.training.evaluation import evaluate
from tljax.training.options import TrainingOptions
from tljax.training.problems import Evaluation
from tljax.training.problems.classification import naive_correct
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


def run_probe(
    config: ml_collections.ConfigDict,
    workdir: Path,
    weight_decays: Sequence[float] = (0.0,),
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Solves or trains heads, chooses one, and tests it once.

    It uses the config's data, model, weights, preprocessing and seed. With `optimizer=lbfgs` one
    head is solved for each choice of features. Otherwise the grid replaces optimizer, learning
    rate, schedule, decay and clip, and batch size, epochs or steps are the config's. It uses one
    device.

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
      `val_accuracy` and `val_loss` or, out of fold, its `accuracy` and `loss`.

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
    if not begun:
        exp.check_first_image(dataset)
    options = exp.options
    _check(exp, dataset, weight_decays)
    model, shape = exp.model, exp.preprocessing.image_shape
    given = exp.read_pretrained()
    variables = jax.device_put(exp.plan.initialise(new_variables(model, shape, options), given))
    features = functools.partial(
        compute_features, model, variables, exp.preprocessing, progress=progress
    )
    with locked(workdir):
        experiment.keep_config(workdir, exp.tasks, exp.config, None if begun else dataset)
        train = features(dataset.train, "training")
        val = None if dataset.val is None else features(dataset.val, "validation")
        if options.solves:
            chosen = _solve(exp, variables, train, val, groups_of(dataset.train))
        else:
            assert val is not None
            chosen = _train(exp, variables, train, val, weight_decays, progress)
        steps = options.total_steps(len(train))
        examples = len(train) if options.solves else steps * options.batch_size
        result = _describe(exp, dataset, steps, examples, chosen)
        with closing(open_metrics(workdir, None)) as writer:
            if val is not None:
                writer.write("val", steps, examples=examples, **chosen.validation)
            _save(workdir, steps, chosen)
            if dataset.test is not None:
                tested = _evaluate(exp, chosen, features(dataset.test, "test"))
                values = {"accuracy": tested.accuracy, "loss": tested.loss}
                values["balanced_accuracy"] = tested.balanced_accuracy
                writer.write("test", steps, examples=examples, **values)
                result |= {"test_size": tested.count}
                result |= {f"test_{name}": values[name] for name in _TEST_FIELDS}
                naive = naive_correct(dataset.train.labels, tested.class_counts)
                result["naive_accuracy"] = naive / tested.count
                assert tested.answers is not None
                write_atomically(workdir / ANSWERS_FILE, pack_answers(tested.answers))
        result["beats_naive"] = _compare_with_naive(dataset, chosen, result)
        result |= {
            "wall_seconds": round(time.monotonic() - began, 3),
            "devices": [str(device.device_kind) for device in jax.devices()],
            "versions": versions(),
        }
        write_atomically(workdir / "result.json", json.dumps(result, indent=2) + "\n")
    return result


@dataclass(frozen=True)
class _Chosen:
    """The chosen head.

    Attributes:
      features: what it sees.
      network: the variables, with this head.
      validation: its `accuracy` and `loss` on validation images or, without any, out of fold.
      about: the field `probe` of `result.json`.
    """

    features: Features
    network: Tree
    validation: Mapping[str, float]
    about: Mapping[str, Any]

    @property
    def head(self) -> Tree:
        head: Tree = self.network["params"]["head"]
        return head


def _solve(
    exp: Experiment,
    variables: Tree,
    train: CachedSource,
    val: CachedSource | None,
    groups: np.ndarray | None,
) -> _Chosen:
    """Solves a head for each choice of features; cross-validation chooses one."""
    model = exp.model
    kinds = choices(model, patches_alone=True)
    solved = solve_choices(kinds, train, model.num_classes, exp.options.seed, groups)
    best = choose_features(solved, train.labels)
    head = {"kernel": best.solved.kernel, "bias": best.solved.bias}
    network = {**variables, "params": {**variables["params"], "head": head}}
    about = describe_choice(best, solved)
    chosen = _Chosen(best.features, network, best.solved.report["cross_validation"], about)
    if val is None:
        return chosen
    found = _evaluate(exp, chosen, val)
    return replace(chosen, validation={"accuracy": found.accuracy, "loss": found.loss})


def _train(
    exp: Experiment,
    variables: Tree,
    train: CachedSource,
    val: CachedSource,
    weight_decays: Sequence[float],
    progress: bool,
) -> _Chosen:
    """Trains the grid of heads; validation images choose one."""
    model, options = exp.model, exp.options
    settings = list_settings(model, options.batch_size, weight_decays)
    heads = train_heads(
        model,
        exp.plan,
        settings,
        train,
        steps=options.total_steps(len(train)),
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    ranked = rank_heads(model, heads, val, options.batch_size)
    best = max(settings, key=ranked.__getitem__)  # the first, if several rank equally
    head = heads.params_of(best)
    network = {**variables, "params": {**variables["params"], "head": head}}
    about = {
        "chosen": best.to_json(),
        "own_features": best.features.are_the_models_own,
        "weight_decays": list(weight_decays),
        "grid": [
            {**s.to_json(), "val_accuracy": ranked[s][0], "val_loss": -ranked[s][1]}
            for s in settings
        ],
    }
    accuracy, minus_loss = ranked[best]
    return _Chosen(best.features, network, {"accuracy": accuracy, "loss": -minus_loss}, about)


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
    before = result["probe"].get("weight_decays", [0.0])  # none where heads are solved
    if before != list(weight_decays):
        raise InputError(
            f"'{workdir}' holds a probe with weight decays {before}, not {list(weight_decays)};"
            " choose another --workdir"
        )
    _log.warning("'%s' holds a finished probe; this is its result", workdir)
    return result


def _describe(
    exp: Experiment, dataset: Dataset, steps: int, examples: int, chosen: _Chosen
) -> dict[str, Any]:
    """Returns the fields of `result.json` that are known before the test."""
    config = exp.config
    result = {
        "scenario": config.scenario,
        "model": config.model,
        "data": config.data,
        "num_classes": dataset.num_classes,
        "plan": exp.plan.to_json(),
        "train_size": len(dataset.train),
        "val_size": 0 if dataset.val is None else len(dataset.val),
        "seed": exp.options.seed,
        "steps": steps,
        "best_step": steps,
        "val_accuracy": chosen.validation["accuracy"],
        "trainable_parameters": parameter_count(chosen.head),
        "total_parameters": parameter_count(chosen.network["params"]),
        "examples_seen": examples,
        "probe": chosen.about,
    }
    if dataset.val is None:
        result["validated_by"] = "cross-validation"
    return result


def _compare_with_naive(
    dataset: Dataset, chosen: _Chosen, result: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns the field `beats_naive` of `result.json`."""
    if dataset.val is None:
        return compare_result(result, (0, 0), chosen.validation)
    counts = np.bincount(dataset.val.labels, minlength=dataset.num_classes)
    return compare_result(result, (len(dataset.val), naive_correct(dataset.train.labels, counts)))


def _evaluate(exp: Experiment, chosen: _Chosen, features: CachedSource) -> Evaluation:
    """Evaluates the chosen head on the features of a source's images."""
    return evaluate(
        exp.model,
        chosen.network,
        replace(features, features=chosen.features.select(features.features)),
        exp.preprocessing,
        exp.options.batch_size,
        with_answers=True,
    )


def check_kind(data: str, labels: np.ndarray) -> None:
    """Raises InputError unless the labels of the data are one class an image."""
    if (kind := kind_of(labels)) != "classes":
        words = {"multi_label": "several labels an image", "regression": "numbers"}[kind]
        raise InputError(
            f"'{data}' has {words}, but a probe is for one class an image; use `tljax train` with"
            " scenario feature_extraction, which solves a head for any labels"
        )


def _check(exp: Experiment, dataset: Dataset, weight_decays: Sequence[float]) -> None:
    """Raises InputError if the config changes its features, or sets what the heads do not use."""
    config, options = exp.config, exp.options
    check_kind(config.data, dataset.train.labels)
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
    if weights_of(dataset.train) is not None:
        raise InputError(
            f"'{config.data}' has a column of weights, but a probe's heads count every image once;"
            " rename the column, or use `tljax train` with scenario feature_extraction"
        )
    if len(exp.tasks) > 1:
        raise InputError(f"data is {config.data}, but a probe takes one data set; name one of them")
    if not weight_decays or not all(0 <= decay < math.inf for decay in weight_decays):
        raise InputError(
            f"the weight decays are {list(weight_decays)}; set --weight_decays to finite numbers,"
            " not negative, with commas between"
        )
    if options.solves and list(weight_decays) != [0.0]:
        raise InputError(
            f"the weight decays are {list(weight_decays)}, but optimizer is lbfgs, whose penalty is"
            " chosen by cross-validation; leave --weight_decays out"
        )
    if options.l2 is not None:
        raise InputError(
            f"l2 is {options.l2}, but a probe chooses it by cross-validation; leave l2 out"
        )
    if dataset.val is None and not options.solves:
        raise InputError(
            f"'{config.data}' has no validation images to choose a head on; give data that has, or"
            " set optimizer to lbfgs, which chooses by cross-validation"
        )
    exp.setups(dataset)


def _save(workdir: Path, steps: int, chosen: _Chosen) -> None:
    """Saves the chosen head and, if it sees the features of the model's own, the whole network."""
    with replacing(workdir / _HEAD) as temporary:
        arrays = {name: np.asarray(leaf) for name, leaf in chosen.head.items()}
        save_file(arrays, temporary, {"features": json.dumps(asdict(chosen.features))})
    if chosen.features.are_the_models_own:
        state = {"count": jnp.int32(steps)}  # a finished probe has no optimizer state to resume
        checkpoints = Checkpoints(workdir / "checkpoints")
        checkpoint = Checkpoint(steps, chosen.network, state, bookkeeping=None)
        checkpoints.save(checkpoint, keep=1)
        checkpoints.finish()
