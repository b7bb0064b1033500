"""Every family's files give the numbers of the original implementation, group by group.

The originals' numbers are in tests/references; tests/parity/make_references.py writes them.
"""

import functools
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.reference_cases import CASES, Case
from tests.reference_weights import images, kept
from tljax.weights import PretrainedWeights, rules, variables_for
from tljax.weights.read import read

REFERENCES = Path(__file__).parent / "references"


def our_outputs(case: Case, filled: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The output of each group of a model with pretrained parameters."""
    model = case.create()
    pretrained = PretrainedWeights(filled, case.num_classes, case.rule_table, case.stem)
    variables = variables_for(pretrained, model, case.size, position_resampling=case.resampling)
    with jax.default_matmul_precision("float32"):
        found = outputs_of(model, variables, jnp.asarray(images(case.size)))
    return [np.asarray(output) for output in found]


@functools.partial(jax.jit, static_argnums=0)
def outputs_of(model, variables, x):
    found = []
    for depth in range(len(model.groups)):
        x = model.apply(variables, x, train=False, start=depth, stop=depth + 1)
        found.append(x)
    return found


def written(tensors: dict[str, np.ndarray], path: Path) -> Path:
    """Writes these tensors to a file, in the format of its suffix."""
    if path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        with h5py.File(path, "w") as file:
            for name, array in tensors.items():
                file[name] = array
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_file_gives_the_originals_numbers(case, tmp_path):
    model = case.create()
    drawn = case.draw()
    tensors = rules.unconvert(case.rule_table, model, drawn)
    path = written(tensors, tmp_path / f"weights{case.suffix}")
    shapes = {name: array.shape for name, array in drawn.items()}
    filled = rules.convert(case.rule_table, model, shapes, read(path).tensors, path.name)
    assert filled.keys() == drawn.keys()
    for name, array in drawn.items():
        assert filled[name].dtype == np.float32
        assert np.array_equal(filled[name], array), name

    expected = np.load(REFERENCES / f"{case.stem}.npz")
    outputs = our_outputs(case, filled)
    assert len(outputs) == len(expected.files)
    for depth, (group, output) in enumerate(zip(model.groups.names, outputs, strict=True)):
        theirs = expected[f"group{depth}"]
        worst = np.abs(kept(output) - theirs).max() / theirs[-1]
        assert worst <= 1e-4, f"{group}: {worst} of the largest activation"


def test_every_reference_has_its_case():
    stems = {path.stem for path in REFERENCES.glob("*.npz")} - {"positions"}
    assert stems == {case.stem for case in CASES}
