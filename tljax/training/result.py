"""What a run says of how it did: in rows of `metrics.jsonl`, and in the end in `result.json`."""

from collections.abc import Mapping
from typing import Any

from tljax.data import Source
from tljax.models import parameter_count
from tljax.training.evaluation import Evaluation, naive_accuracy
from tljax.training.tasks import by_task
from tljax.transfer.partition import Tree

# What `stages` of a result holds of each.
_OF_A_STAGE = (
    "plan",
    "steps",
    "best_step",
    "val_accuracy",
    "examples_seen",
    "trainable_parameters",
)


def reported(evaluation: Evaluation, tasks: Mapping[str, int] | None = None) -> dict[str, Any]:
    """An evaluation as a row tells it; of several `tasks`, each one's too."""
    fields: dict[str, Any] = {
        "accuracy": evaluation.accuracy,
        "balanced_accuracy": evaluation.balanced_accuracy,
        "loss": evaluation.loss,
    }
    if evaluation.tasks:
        parts = zip(tasks or (), evaluation.tasks, strict=True)
        fields["tasks"] = {name: reported(part) for name, part in parts}
    return fields


def of_training(
    *,
    train: Source,
    val: Source | None,
    seed: int,
    steps: int,
    batch_size: int,
    best_step: int,
    validated: Mapping[str, Any],
    trained: Tree,
    params: Tree,
) -> dict[str, Any]:
    """What was trained, on what, and how well it did on validation images.

    Args:
      train, val: of the run.
      seed, batch_size: of its options.
      steps: that were taken.
      best_step: whose weights are kept.
      validated: the row of their validation; empty if there was none.
      trained, params: the parameters that moved, and all of them.
    """
    return {
        "train_size": len(train),
        "val_size": 0 if val is None else len(val),
        "seed": seed,
        "steps": steps,
        "best_step": best_step,
        "val_accuracy": validated.get("accuracy"),
        "val_balanced_accuracy": validated.get("balanced_accuracy"),
        "trainable_parameters": parameter_count(trained),
        "total_parameters": parameter_count(params),
        "examples_seen": steps * batch_size,
    }


def of_test(test: Evaluation, train: Source, task_sizes: tuple[int, ...]) -> dict[str, Any]:
    """How well the kept weights did on test images, beside the commonest class of `train`."""
    return {
        "test_size": test.count,
        "test_accuracy": test.accuracy,
        "test_balanced_accuracy": test.balanced_accuracy,
        "test_loss": test.loss,
        "naive_accuracy": naive_accuracy(train, test, task_sizes),
    }


def of_tasks(
    tasks: Mapping[str, int] | None,
    train: Source,
    val: Source | None,
    validated: Mapping[str, Any],
    test: Evaluation | None,
) -> dict[str, Any]:
    """`tasks` of a result, where there are several; else nothing."""
    if tasks is None or len(tasks) < 2:
        return {}
    return {"tasks": by_task(tasks, train, val, validated.get("tasks"), test)}


def with_stage_before(before: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a run up to this stage, from that up to the stage before and this one's own.

    Its plan says where groups started in the first stage, and what moved in the last one.
    """

    def of_a_stage(summary: Mapping[str, Any]) -> dict[str, Any]:
        return {name: summary[name] for name in _OF_A_STAGE}

    whole = {
        **own,
        "plan": {**own["plan"], "init": before["plan"]["init"]},
        "seed": before["seed"],
        "stages": [*before.get("stages", [of_a_stage(before)]), of_a_stage(own)],
    }
    for name in ("steps", "examples_seen"):
        whole[name] = before[name] + own[name]
    whole["wall_seconds"] = round(before["wall_seconds"] + own["wall_seconds"], 3)
    for name in ("changes", "skipped_images"):
        if name in before or name in own:
            whole[name] = list(dict.fromkeys([*before.get(name, []), *own.get(name, [])]))
    return whole
