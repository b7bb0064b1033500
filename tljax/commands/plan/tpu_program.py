"""Compiles the training step for a TPU slice, on a machine that has none.

    python -m tljax.commands.plan.tpu_program < question.json > reports.jsonl

`tljax plan --target` starts this program in its own process, because libtpu reads from the
environment that this is not a TPU VM; see `tljax.commands.plan.target`. It compiles the step that
`tljax train` would run on the slice: gradient, clip and update, with donated state and arrays laid
out on the config's mesh.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tljax import experiment
from tljax.data import Task
from tljax.devices.sharding import AXES, build, check_batch
from tljax.errors import InputError
from tljax.experiment import Experiment
from tljax.models import tracing
from tljax.models.flops import counted_flops
from tljax.training.step import abstract_batch, step_arguments, step_of_run

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}
_LARGEST = 2**22  # images; the search for the largest batch ends here


@dataclass(frozen=True)
class Report:
    """What a step compiled for a slice costs. All figures are per chip; sizes are in bytes.

    Attributes:
      batch_size: of the whole slice.
      devices: number of chips.
      fits: whether the program fits the chip's memory, by the compiler and by `memory`.
      why: why it does not fit.
      flops: of a step, as XLA counts.
      bytes_accessed: HBM traffic of a step, as XLA counts.
      arguments, outputs, temporaries, code: in HBM; without outputs that reuse an argument's
        memory.
      collectives: by kind: their number in the program, the bytes of their results, and the bytes
        that a chip sends.
      optimizer_state: shapes on one chip of the optimizer's arrays among the program's parameters.
    """

    batch_size: int
    devices: int
    fits: bool
    why: str = ""
    flops: float = 0.0
    bytes_accessed: float = 0.0
    arguments: int = 0
    outputs: int = 0
    temporaries: int = 0
    code: int = 0
    collectives: dict[str, tuple[int, int, int]] | None = None
    optimizer_state: tuple[tuple[int, ...], ...] = ()

    @property
    def memory(self) -> int:
        """Bytes of HBM in all."""
        return self.arguments + self.outputs + self.temporaries + self.code


def find_chips(target: str) -> list[Any]:
    """Returns the chips of a slice, e.g. `v5e:2x4`.

    Raises:
      InputError: if libtpu knows no such slice.
    """
    # A v4 or v5p chip has two cores; "megacore" makes them one device.
    two_cores = target.startswith(("v4", "v5p"))
    options = {"chip_config_name": "megacore"} if two_cores else {}
    try:
        return list(topologies.get_topology_desc(target, "tpu", **options).devices)
    except Exception as error:
        first_line = str(error).splitlines()[0]
        raise InputError(
            f"there is no TPU slice '{target}' ({first_line}); give one like v5e:2x4 or v4:2x2x1"
        ) from None


def build_mesh(text: str, devices: list[Any]) -> Mesh:
    """Returns the config's mesh over the chips.

    One chip has a mesh, too: without one, JAX would compile for this machine.
    """
    return build(text, devices) or Mesh(np.array(devices).reshape(1, 1), AXES)


def abstract_arguments(exp: Experiment, mesh: Mesh, tx: Any, batch_size: int) -> tuple[Any, ...]:
    """Returns the arguments of the step, as abstract arrays laid out on the mesh."""
    shape = exp.preprocessing.image_shape
    batch = abstract_batch(exp.model, shape, batch_size, mesh=mesh, problem=exp.problem)
    variables = tracing.abstract_variables(exp.model, shape)
    keeps_average = exp.options.ema is not None
    given = step_arguments(exp.plan, variables, tx, batch, mesh, keeps_average)
    whole = NamedSharding(mesh, PartitionSpec())
    numbers = [jax.ShapeDtypeStruct((), leaf.dtype, sharding=whole) for leaf in given[3:]]
    return *given[:3], *numbers


def compile_step(exp: Experiment, mesh: Mesh, batch_size: int, memory: int) -> Report:
    """Compiles the step for one batch size.

    Args:
      exp: whose step.
      mesh: of the slice.
      batch_size: of the whole slice.
      memory: of a chip, in bytes.

    Raises:
      InputError: if the devices cannot share the batch equally.
    """
    parts = exp.options.accumulate or 1
    check_batch(mesh, batch_size, parts)
    step: Any
    tx, step = step_of_run(
        exp.model,
        exp.plan,
        exp.preprocessing,
        exp.options,
        problem=exp.problem,
        mesh=mesh,
        accumulate=parts,
    )
    arguments = abstract_arguments(exp, mesh, tx, batch_size)
    try:
        program = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "memory" not in str(error):
            raise
        used = re.search(r"Used \S+ of \S+ \w+", str(error))
        return Report(batch_size, int(mesh.size), False, used[0] if used else str(error)[:200])
    analysis: Any = program.memory_analysis()
    counted: Any = program.cost_analysis()
    text = program.as_text()
    report = Report(
        batch_size,
        int(mesh.size),
        fits=True,
        flops=parts * counted_flops(program),  # XLA counts one pass of a loop
        bytes_accessed=parts * float(counted.get("bytes accessed", 0.0)),
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
        collectives=count_collectives(text, int(mesh.size)),
        optimizer_state=find_optimizer_state(text),
    )
    if report.memory > memory:
        return Report(**{**asdict(report), "fits": False, "why": "more than the chip has"})
    return report


def count_collectives(program: str, devices: int) -> dict[str, tuple[int, int, int]]:
    """Counts the collectives in the text of a compiled program.

    The bytes sent are those of ring algorithms: of n chips that reduce or gather s bytes, each
    sends s (n - 1) / n; an all-reduce does both. A loop's body counts once.

    Args:
      program: the text.
      devices: number of chips.

    Returns:
      By kind: (number, bytes of results, bytes sent by a chip).
    """
    found = dict.fromkeys(COLLECTIVES, (0, 0, 0))
    for line in program.splitlines():
        match = re.search(rf"= (.+?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        if not match:
            continue
        kind = match[2]
        sizes = [_size(dtype, shape) for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])]
        # These return their operand, too, when they start.
        shows_operand = match[3] and kind in ("all-gather", "collective-permute")
        size = sizes[1] if shows_operand else sum(sizes)
        n = _group_size(line, devices)
        sent = {
            "all-reduce": 2 * size * (n - 1) / n,
            "reduce-scatter": size * (n - 1),  # its result is one n-th of what is reduced
            "collective-permute": size,
        }.get(kind, size * (n - 1) / n)
        number, total, moved = found[kind]
        found[kind] = (number + 1, total + size, moved + int(sent))
    return {kind: counts for kind, counts in found.items() if counts[0]}


def find_optimizer_state(program: str) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes of the optimizer's arrays among a program's parameters, sorted."""
    entry = program[program.index("\nENTRY ") :]
    shapes = re.findall(r"\w+\[([\d,]+)\]\S* parameter\(.*op_name=\"state\.opt_state", entry)
    return tuple(sorted(tuple(int(n) for n in shape.split(",")) for shape in shapes))


def _size(dtype: str, shape: str) -> int:
    return _BYTES.get(dtype, 4) * int(np.prod([int(n) for n in shape.split(",") if n]))


def _group_size(line: str, devices: int) -> int:
    """Returns the number of chips that take part in each instance of a collective."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    return devices


def largest_batch(
    compile_batch: Callable[[int], Report], begin: Report, unit: int
) -> Iterator[Report]:
    """Searches for the largest batch that fits: doubles it until one fails, then bisects.

    Args:
      compile_batch: returns the report of a batch size.
      begin: the report of the first batch size.
      unit: batch sizes are multiples of this.

    Yields:
      The reports of the batch sizes tried after the first.
    """
    fitting, failing = 0, 0
    report = begin
    while True:
        number = report.batch_size // unit
        fitting, failing = (number, failing) if report.fits else (fitting, number)
        if failing - fitting == 1 or fitting * unit > _LARGEST:
            return
        number = (fitting + failing) // 2 if failing else 2 * fitting
        report = compile_batch(number * unit)
        yield report


def answer(question: dict[str, Any]) -> Iterator[Report]:
    """Yields the report of the config's batch size, then those of the search for the largest.

    Args:
      question: `config`, resolved; `tasks`, the name and classes of each; `target`; `memory` of a
        chip in bytes; `max_batch`, whether to search.
    """
    config = ml_collections.ConfigDict(question["config"])
    tasks = tuple(Task(name, tuple(names)) for name, names in question["tasks"])
    exp = experiment.build(config, tasks)
    mesh = build_mesh(config.mesh, find_chips(question["target"]))

    def compile_batch(batch_size: int) -> Report:
        return compile_step(exp, mesh, batch_size, question["memory"])

    report = compile_batch(config.batch_size)
    yield report
    if question["max_batch"]:
        unit = int(mesh.size) * (exp.options.accumulate or 1)
        yield from largest_batch(compile_batch, report, unit)


if __name__ == "__main__":
    try:
        for report in answer(json.load(sys.stdin)):
            print(json.dumps(asdict(report)), flush=True)
    except InputError as error:
        print(json.dumps({"error": str(error)}), flush=True)
