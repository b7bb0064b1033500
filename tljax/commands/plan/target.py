"""What a config's training step costs on a TPU slice, estimated without a TPU.

The step is compiled for the slice (`tpu_program`), and the chip's published figures turn the
program into a roofline estimate (Williams et al. 2009). A step takes at least the time of its
arithmetic at the peak rate, and at least the time to send its data over the interconnect. Memory
traffic gives a third time, but no bound: XLA also counts traffic that stays on the chip. Only a TPU
can tell the real time.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import ml_collections
from rich.console import Console
from rich.table import Table

from tljax import experiment
from tljax.commands.plan.tpu_program import Report
from tljax.console import progress_bar
from tljax.errors import InputError

_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Published figures of a chip.

    Attributes:
      memory: HBM, in GiB.
      flops: peak bfloat16 FLOP/s.
      bandwidth: of HBM, in bytes/s.
      interconnect: bytes/s sent over all links together.
    """

    memory: int
    flops: float
    bandwidth: float
    interconnect: float


# docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, read in 2026. The interconnect's figure is for
# one direction, i.e. half of the bidirectional one that is published.
CHIPS = {
    "v4": Chip(32, 275e12, 1200e9, 300e9),
    "v5e": Chip(16, 197e12, 819e9, 200e9),
    "v5p": Chip(95, 459e12, 2765e9, 600e9),
    "v6e": Chip(32, 918e12, 1638e9, 400e9),
}
# Tells libtpu that this is not a TPU VM, that there is no metadata server, and that other processes
# may use it at the same time.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def parse_target(target: str) -> Chip:
    """Returns the chip of a slice, e.g. of `v5e:2x4`.

    Raises:
      InputError: if `target` does not name a slice of one of `CHIPS`.
    """
    match = re.fullmatch(r"(\w+):\d+x\d+(x\d+)?", target)
    if not match or match[1] not in CHIPS:
        raise InputError(
            f"there is no TPU slice '{target}'; give a chip ({', '.join(CHIPS)}) and the shape of"
            " the slice, e.g. v5e:2x4 or v4:2x2x1"
        )
    return CHIPS[match[1]]


def check_target(target: str) -> Chip:
    """Returns the chip of a slice, after checking that programs can be compiled for it here.

    Raises:
      InputError: if there is no such chip, or libtpu is not installed.
    """
    chip = parse_target(target)
    if find_spec("libtpu") is None:
        raise InputError(
            "compiling for a TPU needs its compiler, which runs on any machine; install it with"
            " pip install -c constraints.txt '.[tpu]'"
        )
    return chip


def compile_reports(
    config: ml_collections.ConfigDict, target: str, max_batch: bool = False
) -> Iterator[Report]:
    """Compiles the config's step for a slice, in another process.

    Args:
      config: a whole config.
      target: the slice.
      max_batch: whether to search for the largest batch that fits.

    Yields:
      The report of the config's batch size, then those of the search.

    Raises:
      InputError: if libtpu is not installed, there is no such slice, or the config does not fit
        it.
    """
    chip = check_target(target)
    exp = experiment.build(config)
    question = {
        "config": json.loads(exp.config.to_json()),
        "tasks": [[task.name, task.class_names] for task in exp.tasks],
        "target": target,
        "memory": chip.memory * _GIB,
        "max_batch": max_batch,
    }
    command = [sys.executable, "-m", "tljax.commands.plan.tpu_program"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,  # libtpu prints a lot
            text=True,
        ) as compiler,
    ):
        try:
            assert compiler.stdin is not None
            assert compiler.stdout is not None
            with compiler.stdin as questions:
                json.dump(question, questions)
            for line in compiler.stdout:
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise InputError(answer["error"])
                yield Report(**answer)
            if compiler.wait():
                log.seek(0)
                raise RuntimeError(f"the compiler for {target} failed:\n{log.read()[-4000:]}")
        finally:
            compiler.terminate()


def roofline(report: Report, chip: Chip) -> dict[str, float]:
    """Returns the seconds of a step's arithmetic, memory traffic and sends, at peak rates."""
    sent = sum(moved for *_, moved in (report.collectives or {}).values())
    return {
        "arithmetic": report.flops / chip.flops,
        "memory": report.bytes_accessed / chip.bandwidth,
        "interconnect": sent / chip.interconnect,
    }


def print_target(config: ml_collections.ConfigDict, target: str, max_batch: bool = False) -> None:
    """Prints the cost of the step on a slice, per chip.

    Args:
      config: a whole config.
      target: the slice.
      max_batch: whether to also search for the largest batch that fits, and print it.

    Raises:
      InputError: as `compile_reports`.
    """
    chip = check_target(target)
    width = None if Console().is_terminal else 120
    console = Console(highlight=False, soft_wrap=True, width=width)
    best: Report | None = None
    with progress_bar() as bar:
        task = bar.add_task(f"compiling for {target}", total=None)
        for number, report in enumerate(compile_reports(config, target, max_batch)):
            if number == 0:
                console.print()
                _print_report(console, config, target, chip, report)
            else:
                bar.update(task, completed=number)
                outcome = f"fits, {report.memory / _GIB:.2f} GiB" if report.fits else report.why
                console.print(f"batch {report.batch_size:,}: {outcome}")
            if report.fits and (best is None or report.batch_size > best.batch_size):
                best = report
    if max_batch and best is None:
        console.print(f"no batch fits {target}, not even one image a chip")
    elif max_batch and best is not None:
        console.print(
            f"the largest batch that fits {target} is {best.batch_size:,}"
            f" ({best.memory / _GIB:.2f} GiB a chip)"
        )


def _print_report(
    console: Console, config: ml_collections.ConfigDict, target: str, chip: Chip, report: Report
) -> None:
    """Prints the table of a report, and the roofline estimate."""
    each = report.batch_size // report.devices
    console.print(
        f"{config.scenario} of {config.model} on {target}: {report.devices} chips, mesh"
        f" {config.mesh}, batch {report.batch_size:,} ({each:,} images a chip), {config.dtype}"
    )
    if not report.code:
        console.print(f"does not fit: {report.why}")
        return
    table = Table()
    table.add_column("a chip")
    table.add_column("", justify="right")
    for name in ("arguments", "outputs", "temporaries", "code"):
        table.add_row(name, f"{getattr(report, name) / _GIB:.3f} GiB")
    share = report.memory / _GIB / chip.memory
    table.add_row("HBM in all", f"{report.memory / _GIB:.2f} of {chip.memory} GiB ({share:.0%})")
    table.add_row("fits", "yes" if report.fits else "no", end_section=True)
    table.add_row("FLOP a step", f"{report.flops:.4g}")
    table.add_row(
        "memory traffic a step", f"{report.bytes_accessed / _GIB:.2f} GiB", end_section=True
    )
    for kind, (count, size, _) in (report.collectives or {}).items():
        table.add_row(kind, f"{count} of {size / 2**20:,.1f} MiB in all")
    console.print(table)
    seconds = roofline(report, chip)
    least, most = max(seconds["arithmetic"], seconds["interconnect"]), max(seconds.values())
    console.print(
        "roofline of a step, at the chip's peak rates: "
        + ", ".join(f"{value * 1e3:.1f} ms of {name}" for name, value in seconds.items())
        + f"; so at most {report.batch_size / least:,.0f} images/s, or"
        f" {report.batch_size / most:,.0f} if all memory traffic goes to HBM"
    )
