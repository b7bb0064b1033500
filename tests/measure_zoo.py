"""Fills the columns `parameters` and `gflops` of the zoo's table from our own models.

    python -m tests.measure_zoo

Run it after adding rows or changing a network; tests/test_zoo.py checks some rows.
"""

import csv
import functools
from pathlib import Path

import jax

import tljax.weights.zoo
from tljax.analysis.cost import group_flops
from tljax.models import create, parameter_count
from tljax.models.tracing import abstract_variables

TABLE = Path(tljax.weights.zoo.__file__).with_name("zoo.csv")


@functools.cache
def backbone(model: str, image_size: int) -> tuple[int, float, int]:
    """(parameters, FLOPs of a forward pass of one image, width of the features)."""
    network = create(model, num_classes=0)
    variables = abstract_variables(network, image_size)
    flops = sum(group_flops(network, variables, image_size))
    headed = abstract_variables(create(model, num_classes=1), image_size)
    width = headed["params"]["head"]["kernel"].shape[0]
    jax.clear_caches()
    return parameter_count(variables["params"]), flops, width


def figures(row: dict[str, str]) -> dict[str, str]:
    """Values of the two columns for a row."""
    parameters, flops, width = backbone(row["model"], int(row["image_size"]))
    if classes := int(row["num_classes"]):
        parameters += (width + 1) * classes
        flops += (2 * width + 1) * classes
    return {"parameters": str(parameters), "gflops": f"{flops / 1e9:.2f}"}


def rows() -> list[dict[str, str]]:
    """Rows of the current table."""
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    measured = [row | figures(row) for row in rows()]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(measured[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(measured)
    print(f"{len(measured)} rows of {TABLE}")


if __name__ == "__main__":
    main()
