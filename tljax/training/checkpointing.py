"""Orbax, wrapped: the one module that knows which of its APIs is used (v1).

A checkpoint holds the model's whole variables, so that it can be used without its source, the
optimizer's state, the position of the data iterator and the validation metrics of its step. The
newest ones and the best one on validation data are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp

from tljax.errors import InputError
from tljax.transfer.partition import Tree


@dataclass(frozen=True)
class Restored:
    """A checkpoint as it was saved; `extra` is JSON."""

    variables: Tree
    opt_state: Any
    extra: dict[str, Any]


def validation_rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    """What "best on validation" means: highest accuracy, then lowest loss."""
    return metrics["val_accuracy"], -metrics["val_loss"]


class Checkpoints:
    """The `checkpoints/` folder of a workdir.

    Args:
      directory: the folder.
      keep: newest checkpoints to keep, beside the best one.
      owner: whether this process trains there. Only then may it clear what an earlier process left
        half-saved: to anybody else that may be a save in progress.
    """

    def __init__(self, directory: Path, keep: int = 1, *, owner: bool):
        policies = ocp.training.preservation_policies
        self._directory = directory
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=validation_rank, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=owner,
        )

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def best(self) -> tuple[int, tuple[float, float]] | None:
        """(step, validation rank) of the best validated checkpoint, or None."""
        ranks = [
            (validation_rank(c.metrics), c.step)
            for c in self._checkpointer.checkpoints
            if c.metrics
        ]
        if not ranks:
            return None
        rank, step = max(ranks, key=lambda pair: (pair[0], -pair[1]))
        return step, rank

    def save(
        self,
        step: int,
        variables: Tree,
        opt_state: Any,
        metrics: Mapping[str, float] | None,
        extra: dict[str, Any],
    ) -> None:
        """Saves a checkpoint and returns when it is whole on disk. A step is saved once."""
        if self.latest_step() == step:
            return
        # Not asynchronous: on a CPU Orbax may read the very buffers that the next step overwrites.
        self._checkpointer.save_checkpointables(
            step,
            {"variables": variables, "opt_state": opt_state},
            metrics=dict(metrics) if metrics else None,
            custom_metadata=extra,
            force=True,
        )

    def restore(self, step: int, variables: Tree, opt_state: Any) -> Restored:
        """Restores a checkpoint; `variables` and `opt_state` give structure, shapes and dtypes.

        Raises:
          InputError: if the checkpoint has another structure or other shapes.
        """
        template = {"variables": variables, "opt_state": opt_state}
        abstract = jax.tree.map(_abstract, template)
        where = self._directory / str(step)
        try:
            restored = self._checkpointer.load_checkpointables(step, abstract)
            extra = self._checkpointer.checkpointables_metadata(step).custom_metadata
        except Exception as error:
            raise InputError(
                f"cannot restore the checkpoint {where} into this run"
                f" ({_first_line(error)}); use a new workdir, or the config it was made with"
            ) from error
        # Orbax restores into a changed tree without a word, leaving None where it had nothing.
        restored_structure: Any = jax.tree.structure(restored)
        if restored_structure != jax.tree.structure(template):
            raise InputError(
                f"the checkpoint {where} was made by another plan or optimizer; use a new workdir"
            )
        return Restored(restored["variables"], restored["opt_state"], dict(extra or {}))

    def restore_variables(self, step: int) -> Tree:
        """The variables alone, with the shapes they were saved with, on this process's device.

        Raises:
          InputError: if the checkpoint cannot be read.
        """
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        try:
            saved = self._checkpointer.checkpointables_metadata(step).metadata["variables"]
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), saved
            )
            loaded = self._checkpointer.load_checkpointables(step, {"variables": abstract})
        except Exception as error:
            raise InputError(
                f"cannot read the checkpoint {self._directory / str(step)}"
                f" ({_first_line(error)}); it is damaged or not one of tljax's"
            ) from error
        return loaded["variables"]

    def close(self) -> None:
        self._checkpointer.close()


def has_checkpoint(workdir: Path | None) -> bool:
    """Whether a run in this workdir would go on from a checkpoint."""
    if workdir is None or not (workdir / "checkpoints").is_dir():
        return False
    checkpoints = Checkpoints(workdir / "checkpoints", owner=False)
    try:
        return checkpoints.latest_step() is not None
    finally:
        checkpoints.close()


def best_variables(workdir: Path) -> Tree:
    """The best weights of a finished or running workdir.

    Raises:
      InputError: if it holds no checkpoint.
    """
    directory = workdir / "checkpoints"
    if directory.is_dir():
        checkpoints = Checkpoints(directory, owner=False)
        try:
            validated = checkpoints.best()
            step = validated[0] if validated else checkpoints.latest_step()
            if step is not None:
                return checkpoints.restore_variables(step)
        finally:
            checkpoints.close()
    raise InputError(f"'{workdir}' holds no checkpoint; give the workdir of a `tljax train` run")


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
