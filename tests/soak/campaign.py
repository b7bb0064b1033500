"""Kills a run in every phase, and compares it with an uninterrupted run."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from tljax.runs.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
PHASES = ("step", "save", "evaluation", "write")
# Longest wait in seconds after entering a phase: about its duration on two cores.
_LASTS = {"step": 0.03, "save": 0.25, "evaluation": 0.1, "write": 0.01}
_DIED = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 75}


@dataclass
class Campaign:
    """The outcome of killing one run.

    Attributes:
      kills: number of kills by (phase, signal).
      differences: differences from the uninterrupted run; should be empty.
    """

    kills: Counter = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def train(argv: Sequence[str], workdir: Path) -> None:
    """Runs `tljax train` without a kill: a whole run, or the rest of one."""
    command = [sys.executable, "-m", "tljax.cli", "train", *argv, "--workdir", str(workdir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tljax train ended with {done.returncode}: {done.stderr}")


def strike(
    argv: Sequence[str], workdir: Path, phase: str, sent: str, rng: random.Random
) -> tuple[str, str] | None:
    """Runs until a signal kills the process in `phase`.

    Returns:
      (phase in which the signal arrived, signal), or None if the run ended before.
    """
    log = workdir.with_suffix(".phases")
    log.touch()
    before = len(log.read_text().splitlines())
    occurrence = 1 if phase == "write" else rng.randint(1, 6 if phase == "step" else 3)
    delay = rng.uniform(0, _LASTS[phase])
    own = [phase, str(occurrence), f"{delay:.6f}", sent, str(log)]
    command = [sys.executable, "-m", "tests.soak.victim", *own, "--", "train", *argv]
    died = subprocess.run(
        [*command, "--workdir", str(workdir)], cwd=ROOT, capture_output=True, text=True
    )
    phases = log.read_text().splitlines()[before:]
    if died.returncode == 0:
        return None
    if died.returncode != _DIED[sent] or len(phases) != 1:
        raise RuntimeError(f"{sent} in {phases}: exit {died.returncode}: {died.stderr}")
    return phases[0], sent


def compare(straight: Path, killed: Path) -> list[str]:
    """Lists the differences between two finished workdirs, except times."""
    found = []
    results = [json.loads((w / "result.json").read_text()) for w in (straight, killed)]
    for result in results:
        del result["wall_seconds"]
    if results[0] != results[1]:
        found.append(f"result.json: {results}")
    for name in ("metrics.jsonl", "predictions.npz"):  # the latter only if there was a test
        contents = [w / name for w in (straight, killed)]
        if len({path.read_bytes() if path.exists() else None for path in contents}) > 1:
            found.append(name)
    before, after = (Checkpoints(w / "checkpoints") for w in (straight, killed))
    if not {before.steps()[0], results[0]["best_step"]} <= set(after.steps()):
        found.append(f"checkpoints: {before.steps()} and {after.steps()}")
        return found
    for step in {before.steps()[0], results[0]["best_step"]}:
        a, b = before.read(step), after.read(step)
        for name in ("variables", "opt_state"):
            if not _same_bits(getattr(a, name), getattr(b, name)):
                found.append(f"{name} of step {step}")
    leftovers = [path.name for path in killed.rglob("*tmp*")]
    if leftovers or (killed / "damaged").exists():
        found.append(f"left behind: {leftovers or 'damaged/'}")
    return found


def run_campaign(
    argv: Sequence[str], folder: Path, blows: Sequence[tuple[str, str]], rng: random.Random
) -> Campaign:
    """Compares a run that is killed by `blows`, each (phase, signal), with one that is not.

    A blow that is too late, because the run has ended, is repeated in the next run of the same
    kind, so that all of them strike.
    """
    campaign = Campaign()
    straight = folder / "straight"
    train(argv, straight)
    left, number = list(blows), 0
    while left:
        killed = folder / f"killed{number}"
        for blow in list(left):
            struck = strike(argv, killed, *blow, rng)
            if struck is None:
                break
            campaign.kills[struck] += 1
            left.remove(blow)
        train(argv, killed)
        differences = compare(straight, killed)
        campaign.differences += [f"{killed}: {difference}" for difference in differences]
        number += 1
    return campaign


def _same_bits(a: object, b: object) -> bool:
    leaves = jax.tree.leaves(a), jax.tree.leaves(b)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(*leaves, strict=True)
    )
