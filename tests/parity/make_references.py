"""Compares every family with the original implementation, with the same random weights.

    python -m tests.parity.make_references [--write] [STEM ...]

The weights are drawn from each parameter's path. So are BatchNorm's statistics, because a fresh
mean of 0 and variance of 1 would hide mistakes. The original reads the weights by its own names
with its own loader, which has to use all of them. The table shows the largest difference between
our groups' outputs and the original's, relative to the largest value. `--write` saves the first
numbers of the original's outputs in tests/references/STEM.npz, for tests that run without it.
"""

import importlib
import sys
from pathlib import Path

import numpy as np

from tests.reference_cases import CASES, GRIDS, POSITIONS, Case, position_embedding
from tests.reference_weights import images, kept
from tests.test_parity import our_outputs
from tljax.weights import rules
from tljax.weights.fitting import resample_positions

FOLDER = Path(__file__).parents[1] / "references"
TOLERANCE = 1e-4
_ROW = "{:26} {:20} {:>7} {:>12} {:>10}  {}"


def main(arguments: list[str]) -> None:
    write = "--write" in arguments
    stems = [argument for argument in arguments if argument != "--write"]
    print(_ROW.format("case", "family", "tensors", "parameters", "difference", "worst group"))
    failed = [
        case.stem
        for case in CASES
        if (not stems or case.stem in stems) and compare(case, write) > TOLERANCE
    ]
    if not stems and compare_positions(write) > TOLERANCE:
        failed.append("positions")
    if not stems:
        from tests.parity.keras_resnet import check_written_files

        for name in ("keras_resnet50", "keras_resnet50v2"):
            check_written_files(name, {"stage_sizes": (2, 3, 2), "widths": (64, 32, 48)}, 64)
    if failed:
        sys.exit(f"differ by more than {TOLERANCE:g}: {', '.join(failed)}")


def compare(case: Case, write: bool) -> float:
    """Prints a row of the table. Returns a group's largest difference, relative to its scale."""
    drawn = case.draw()
    tensors = rules.unconvert(case.rule_table, case.create(), drawn)
    original = importlib.import_module(f"tests.parity.{case.original}")
    theirs = original.outputs(case.model, case.fields, case.size, tensors, images(case.size))
    ours = our_outputs(case, drawn)
    assert [x.shape for x in theirs] == [x.shape for x in ours]
    differences = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True)]
    worst = int(np.argmax(differences))
    number = sum(array.size for array in drawn.values())
    group = case.create().groups.names[worst]
    difference = f"{differences[worst]:.1e}"
    row = case.stem, case.family, len(tensors), f"{number:,}", difference, group
    print(_ROW.format(*row), flush=True)
    if write:
        arrays = {f"group{depth}": kept(output) for depth, output in enumerate(theirs)}
        np.savez_compressed(FOLDER / f"{case.stem}.npz", **arrays)
    return float(differences[worst])


def compare_positions(write: bool) -> float:
    """Prints how our resampled position embeddings differ. Returns the largest difference."""
    from tests.parity import positions

    arrays, worst = {}, 0.0
    for original, resampling in POSITIONS.items():
        for side, grid in GRIDS:
            theirs = positions.resampled(original, side, grid)
            ours = resample_positions(position_embedding(side), grid, 1, resampling, original)
            difference = float(np.abs(ours - theirs).max())
            print(f"positions, {original}: {side}x{side} to {grid[0]}x{grid[1]}, {difference:.1e}")
            arrays[f"{original} {side} {grid[0]}x{grid[1]}"] = theirs
            worst = max(worst, difference)
    if write:
        np.savez_compressed(FOLDER / "positions.npz", **arrays)
    return worst


if __name__ == "__main__":
    main(sys.argv[1:])
