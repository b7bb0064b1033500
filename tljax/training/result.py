"""What a run leaves: the fields of `result.json`, the best weights, the rows of its metrics."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from tljax.data import skipped_message
from tljax.devices import processes, sharding
from tljax.models import parameter_count
from tljax.runs.answers import ANSWERS_FILE, Outputs, pack_answers
from tljax.runs.baseline import compare_result
from tljax.runs.environment import versions
from tljax.runs.resume import best_row
from tljax.runs.scores import BY_NO_IMAGES, WORDS, score_of
from tljax.runs.workdir import write_atomically
from tljax.training import train_state
from tljax.training.loss.tasks import class_ranges
from tljax.training.problems import Evaluation, MultiLabel, Problem
from tljax.training.problems.classification import naive_correct
from tljax.training.problems.multi_label import THRESHOLD, choose_thresholds
from tljax.training.problems.outcome import compare_outputs, name_classes
from tljax.training.run import Best, Run
from tljax.training.setup import Setup
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

# What `stages` of a result holds of each.
_OF_A_STAGE = (
    "plan",
    "steps",
    "best_step",
    "examples_seen",
    "trainable_parameters",
    "restarted",
)


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
      summary: the fields of `result.json`.
      variables: the model's variables that are kept: the best on validation, or the last.
      history: the rows of `metrics.jsonl`; of a run in stages, of all of them.
      last: the model's variables after the last step; None where a finished run is read.
    """

    summary: dict[str, Any]
    variables: Tree
    history: list[dict[str, Any]]
    last: Tree | None = None


def finish(
    run: Run, about: Mapping[str, Any] | None = None, before: Mapping[str, Any] | None = None
) -> Result:
    """Tests the best weights of a run that is over, once, and writes its result.

    Args:
      run: after `tljax.training.loop.train`.
      about: further fields of the result, e.g. the name of the data.
      before: the result of the stage before this one, if there is one; the result covers both.
    """
    last = train_state.model_variables(run.state, run.frozen)
    best = run.best or Best(run.step, None, last)
    problem, chosen = _with_thresholds(run, best)
    tested = _test(run, best, problem)
    summary = {**(about or {}), **_summary(run, best, tested, problem), **chosen}
    name_classes(summary)
    if before is not None:
        summary = _with_stage_before(before, summary)
    _write(run, summary)
    kept = (best.variables, last)
    variables, last = kept if run.tools.mesh is None else sharding.gather_to_host(kept)
    return Result(summary, variables, run.metrics.rows, last)


def _with_thresholds(run: Run, best: Best) -> tuple[Problem, dict[str, Any]]:
    """The problem, of several labels an image with thresholds, and what the result says of these.

    Validation images choose them, or predictions out of fold if the solved head is the result.
    Every F1 of the result is by them, also that of validation, whose rows have F1 at 0.5.
    """
    problem = run.setup.problem
    if not isinstance(problem, MultiLabel):
        return problem, {}
    chosen: tuple[float, ...] | None = None
    which, answers = BY_NO_IMAGES, None
    if run.inputs.val is not None:
        answers = run.evaluate(best.variables, run.inputs.val, with_answers=True).answers
        assert isinstance(answers, Outputs)
        chosen, which = choose_thresholds(answers.labels, answers.outputs), "validation images"
    else:
        rows = {row["event"]: row for row in run.metrics.rows}
        is_solved = run.setup.options.solves or rows.get("wise_ft", {}).get("alpha") == 0
        if is_solved and "thresholds" in rows.get("solve", {}):
            chosen = tuple(rows["solve"]["thresholds"])
            which = "training images out of fold"
    thresholds = chosen or (THRESHOLD,) * run.setup.model.num_classes
    about: dict[str, Any] = {"thresholds": list(thresholds), "thresholds_chosen_on": which}
    problem = replace(problem, thresholds=thresholds)
    if isinstance(answers, Outputs):
        scores = problem.scores(answers.labels, answers.outputs)
        about |= {f"val_{name}": scores[name] for name in ("micro_f1", "macro_f1")}
    return problem, about


def _test(run: Run, best: Best, problem: Problem) -> Evaluation | None:
    """The best weights on the test images, which are read here and nowhere else."""
    setup = run.setup
    if setup.test is None:
        return None
    _log.debug("phase evaluation, test")
    source = run.inputs.make_test()
    asked = run.workdir is not None or problem.needs_answers
    tested = run.evaluate(best.variables, source, with_answers=asked, problem=problem)
    examples = run.examples_at(best.step)
    run.metrics.write("test", best.step, examples=examples, **tested.to_json(setup.tasks))
    if run.workdir is not None and processes.is_first() and tested.answers is not None:
        write_atomically(run.workdir / ANSWERS_FILE, pack_answers(tested.answers))
    return tested


def _summary(run: Run, best: Best, tested: Evaluation | None, problem: Problem) -> dict[str, Any]:
    """The fields of `result.json`, of this stage alone; `problem` has the thresholds."""
    setup, validated = run.setup, best_row(run.metrics.rows) or {}
    summary: dict[str, Any] = {
        "plan": setup.plan.to_json(),
        "train_size": len(setup.train),
        "val_size": 0 if setup.val is None else len(setup.val),
        "seed": setup.options.seed,
        "steps": run.steps_taken,
        "best_step": best.step,
        **{f"val_{name}": validated.get(name) for name in problem.metrics},
        "trainable_parameters": parameter_count(run.state.trained),
        "total_parameters": parameter_count(best.variables["params"]),
        "examples_seen": run.examples_at(run.step) - run.examples_at(0),
    }
    if problem.kind != "classes":
        summary |= {"kind": problem.kind, "val_accuracy": None}
    if setup.decides != "accuracy":
        summary |= {"score": setup.decides, f"val_{setup.decides}": validated.get(setup.decides)}
    if (row := run.restart_row) is not None:
        restarted = {"step": row["diverged_step"], "from_step": row["step"], "lr": row["lr"]}
        summary["restarted"] = restarted
    if setup.options.patience is not None:
        summary["stopped_early"] = run.steps_taken < setup.total_steps
    for row in run.metrics.rows:
        if row["event"] in ("solve", "wise_ft"):
            summary |= _about_choice(row)
    if setup.val is None and "solved_head" in summary and setup.options.solves:
        summary |= _validated_out_of_fold(summary["solved_head"], setup.decides)
    if tested is not None:
        naive = problem.naive(setup.train.labels, tested.labels)
        summary |= {
            "test_size": tested.count,
            **{f"test_{name}": value for name, value in tested.metrics.items()},
            "test_loss": tested.loss,
            **{f"naive_{name}": value for name, value in naive.items()},
            "test_by_class": {name: list(values) for name, values in tested.by_class.items()},
        }
    if problem.kind == "classes":
        summary["beats_naive"] = _compare_with_naive(run, summary)
    else:
        summary |= compare_outputs(problem, setup.train.labels, tested)
    if len(setup.tasks) > 1:
        summary["tasks"] = _by_task(setup, validated.get("tasks"), tested)
    if setup.options.on_error == "skip":
        summary["skipped_images"] = sorted(run.skipped.union(run.skipped_in_training()))
        if summary["skipped_images"]:
            _log.warning(skipped_message(summary["skipped_images"]))
    if run.tools.changes:
        summary["changes"] = run.tools.changes
    if run.tools.mesh is not None:
        summary |= {"mesh": dict(run.tools.mesh.shape), "processes": processes.count()}
    return summary | {
        "wall_seconds": round(run.seconds, 3),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "versions": versions(),
    }


def _about_choice(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `result.json` says of a solved head, or of the choice on the line of WiSE-FT."""
    name = {"solve": "solved_head", "wise_ft": "wise_ft"}[row["event"]]
    about = {key: row[key] for key in row if key not in ("event", "step", "examples")}
    return {name: about}


def _validated_out_of_fold(report: Mapping[str, Any], decides: str) -> dict[str, Any]:
    """The validation of a solved head that has no validation images: its cross-validation.

    Args:
      report: of the solved head.
      decides: the name of the metric that decides the run.
    """
    if (found := report.get("cross_validation")) is None:
        return {}
    known = {
        f"val_{name}": found[name]
        for name in WORDS
        if (name != "loss" or decides == "loss") and isinstance(found.get(name), float)
    }
    return {**known, "validated_by": "cross-validation"}


def _compare_with_naive(run: Run, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The field `beats_naive` of a run; None if no image tells."""
    setup = run.setup
    val, folds = (0, 0), None
    if setup.val is not None:
        counts = np.bincount(setup.val.labels, minlength=setup.model.num_classes)
        # Without test images, all images that evaluations have skipped are for validation.
        images = len(setup.val) - len(run.skipped)
        val = images, naive_correct(setup.train.labels, counts, tuple(setup.tasks.values()))
    elif "validated_by" in summary:
        folds = summary["solved_head"]["cross_validation"]
    return compare_result(summary, val, folds)


def _by_task(
    setup: Setup, validation: Mapping[str, Any] | None, tested: Evaluation | None
) -> dict[str, dict[str, Any]]:
    """What `result.json` says of each task.

    Args:
      setup: of the run.
      validation: each task's values at the step whose weights are kept.
      tested: those weights on the test images.
    """
    sizes = tuple(setup.tasks.values())
    trained_on = np.bincount(setup.train.labels, minlength=sum(sizes))
    validated_on = np.zeros(len(trained_on), int)
    if setup.val is not None:
        validated_on = np.bincount(setup.val.labels, minlength=len(trained_on))
    described: dict[str, dict[str, Any]] = {}
    for number, (name, (first, end)) in enumerate(
        zip(setup.tasks, class_ranges(sizes), strict=True)
    ):
        accuracies = (validation or {}).get(name, {})
        commonest = first + int(trained_on[first:end].argmax())
        described[name] = {
            "num_classes": setup.tasks[name],
            "train_size": int(trained_on[first:end].sum()),
            "val_size": int(validated_on[first:end].sum()),
            "val_accuracy": accuracies.get("accuracy"),
            "val_balanced_accuracy": accuracies.get("balanced_accuracy"),
        }
        if tested is not None:
            part = tested.tasks[number]
            described[name] |= {
                "test_size": part.count,
                "test_accuracy": part.accuracy,
                "test_balanced_accuracy": part.balanced_accuracy,
                "test_loss": part.loss,
                "naive_accuracy": tested.class_counts[commonest] / part.count,
            }
        val = described[name]["val_size"], int(validated_on[commonest])
        described[name]["beats_naive"] = compare_result(described[name], val)
    return described


def _with_stage_before(before: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The result of all stages up to this one, from that of those before it and this one's own.

    Its plan says where groups started in the first stage, and what moved in the last one.
    """

    def fields_of_stage(summary: Mapping[str, Any]) -> dict[str, Any]:
        names = (*_OF_A_STAGE, "val_accuracy", f"val_{score_of(summary)}")
        return {name: summary[name] for name in names if name in summary}

    whole = {
        **own,
        "plan": {**own["plan"], "init": before["plan"]["init"]},
        "seed": before["seed"],
        "stages": [*before.get("stages", [fields_of_stage(before)]), fields_of_stage(own)],
    }
    for name in ("steps", "examples_seen"):
        whole[name] = before[name] + own[name]
    whole["wall_seconds"] = round(before["wall_seconds"] + own["wall_seconds"], 3)
    for name in ("changes", "skipped_images"):
        if name in before or name in own:
            whole[name] = list(dict.fromkeys([*before.get(name, []), *own.get(name, [])]))
    return whole


def _write(run: Run, summary: Mapping[str, Any]) -> None:
    """Writes `timing.json` and `result.json`."""
    _log.debug("phase write")
    if run.workdir is None or not processes.is_first():
        return
    observer = run.tools.observer
    timing = {
        "first_step_seconds": round(observer.first_step_seconds, 3),
        "input_wait_seconds": round(observer.input_wait_seconds, 3),
    }
    write_atomically(run.workdir / "timing.json", json.dumps(timing, indent=2) + "\n")
    write_atomically(run.workdir / "result.json", json.dumps(summary, indent=2) + "\n")
