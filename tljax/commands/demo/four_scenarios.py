"""The demo: four scenarios on four targets from one source model, offline, on a CPU.

1. Train a source model on drawn letters, and compare it with the naive baseline.
2. Transfer it to a similar target (handwritten digits) and a dissimilar one (textures of
   photographs), each small and large, in each scenario, with several seeds.
3. Print a table and write a report: what the textbook prescribes, which scenario won, and what
   `tljax advise` says before anything is trained.

Each scenario is run as its page in configs/ has it, by the default rule (see
`tljax.experiment.default_rule`), but for two things: training is shorter, so that the demo takes
minutes, and a fifth of the digits validates, so that every run has a learning curve.
"""

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import ml_collections
from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table

from tljax import experiment
from tljax.advice.advisor import FEATURES_ALONE, advise
from tljax.analysis.report.demo_grid import CellRow, DemoRun, cell_table, finding
from tljax.analysis.report.demo_report import write_report
from tljax.analysis.tables import score
from tljax.config import load as load_config
from tljax.console import console as stderr
from tljax.console import progress_bar
from tljax.errors import InputError
from tljax.runs.workdir import make_workdir, write_atomically
from tljax.transfer import TEXTBOOK

SIMILARITY = {"digits": "similar", "textures": "dissimilar"}
PRESCRIBED = {
    ("digits", "small"): "feature_extraction",
    ("textures", "small"): "freeze_first",
    ("textures", "large"): "from_scratch",
    ("digits", "large"): "fine_tune",
}


@dataclass(frozen=True)
class Settings:
    """The scale of the demo. The default takes a few minutes on two cores.

    Attributes:
      model: name of the network.
      source_train_size, source_epochs: letters that the source model learns, and how often.
      small, large: training images of a target.
      steps: of a transfer, except of feature extraction, whose head is solved.
      accept_source: whether the source model may be no better than the naive baseline.
    """

    model: str = "resnet10_32"
    source_train_size: int = 5000
    source_epochs: float = 4.0
    small: int = 50
    large: int = 1000
    steps: int = 100
    accept_source: bool = False


def run_demo(workdir: Path, seeds: int, settings: Settings = Settings()) -> list[CellRow]:
    """Runs the demo, and writes `source/` (a workdir), `runs.jsonl` and `report.html`.

    Args:
      workdir: for these files. A source model in it that has the same settings is used again.
      seeds: runs of each scenario on each target.
      settings: the scale.

    Returns:
      The printed table: one row for each target and size.

    Raises:
      InputError: if `seeds` is below 1, or the workdir cannot be written or holds something else.
    """
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; it must be at least 1")
    make_workdir(workdir)
    began = time.monotonic()
    out = Console(highlight=False)
    source = _train_source(workdir / "source", settings, out)
    runs = _transfer(workdir, settings, seeds)
    rows = cell_table(runs, PRESCRIBED)
    advised = _advise(workdir, settings)
    _print_table(rows, advised, out)
    out.print(finding(rows), soft_wrap=True)
    lines = [json.dumps(asdict(run)) + "\n" for run in [source, *runs]]
    write_atomically(workdir / "runs.jsonl", "".join(lines))
    command = f"tljax demo --workdir {shlex.quote(str(workdir))} --seeds {seeds}"
    write_report(workdir / "report.html", source, runs, PRESCRIBED, SIMILARITY, command)
    minutes = (time.monotonic() - began) / 60
    out.print(f"\n{len(runs)} transfers in {minutes:.1f} minutes; learning curves and benefits:")
    out.print(f"  {workdir / 'report.html'}", soft_wrap=True)
    return rows


def source_config(settings: Settings) -> ml_collections.ConfigDict:
    """Returns the config of the source model: letters, from scratch."""
    return load_config(
        "from_scratch",
        [
            f"--config.model={settings.model}",
            "--config.data=embedded:glyphs",
            f"--config.train_size={settings.source_train_size}",
            "--config.val_fraction=0.025",  # of 20,000 drawn letters
            f"--config.epochs={settings.source_epochs}",
        ],
    )


def target_config(
    target: str, images: int, scenario: str, seed: int, source: Path, settings: Settings
) -> ml_collections.ConfigDict:
    """Returns the config of one transfer to a target: the scenario's page."""
    words = [
        f"--config.model={settings.model}",
        f"--config.data=embedded:{target}",
        f"--config.train_size={images}",
        "--config.val_fraction=0.2",
        f"--config.seed={seed}",
    ]
    if scenario != "from_scratch":
        words.append(f"--config.init_from={source}")
        words.append(f"--config.accept_source={settings.accept_source}")
    if scenario != "feature_extraction":
        words.append(f"--config.steps={settings.steps}")
    return load_config(scenario, words)


def _train_source(workdir: Path, settings: Settings, out: Console) -> DemoRun:
    stderr.print("1/2 training the source model on glyphs (drawn letters)")
    result = experiment.run(source_config(settings), workdir)
    summary = result.summary
    out.print(
        f"source model: {settings.model} on glyphs, {summary['num_classes']} classes:"
        f" test accuracy [bold]{summary['test_accuracy']:.3f}[/],"
        f" naive baseline {summary['naive_accuracy']:.3f}",
        soft_wrap=True,
    )
    return DemoRun(
        "glyphs", "source", summary["scenario"], summary["seed"], summary, result.history
    )


def _transfer(workdir: Path, settings: Settings, seeds: int) -> list[DemoRun]:
    """Runs all transfers. Seeds vary fastest, so that runs of one program follow each other."""
    grid = list(_grid(settings, seeds))
    stderr.print(f"2/2 transferring it: {len(grid)} runs")
    runs: list[DemoRun] = []
    began = time.monotonic()
    with progress_bar(TextColumn("{task.fields[last]}")) as bar:
        task = bar.add_task("", total=len(grid), last="")
        for number, (target, size_name, images, scenario, seed) in enumerate(grid, 1):
            what = f"{target} {size_name} {scenario}"
            bar.update(task, description=f"{what:34}")
            config = target_config(target, images, scenario, seed, workdir / "source", settings)
            result = experiment.fit_config(config)
            runs.append(DemoRun(target, size_name, scenario, seed, result.summary, result.history))
            accuracy = f"test {result.summary['test_accuracy']:.3f}"
            bar.update(task, advance=1, last=f"last: {accuracy}")
            if not stderr.is_terminal:
                left = (time.monotonic() - began) / number * (len(grid) - number)
                stderr.print(
                    f"{number}/{len(grid)}  {what} seed {seed}: {accuracy}  ETA {left:.0f} s"
                )
    return runs


def _advise(workdir: Path, settings: Settings) -> dict[tuple[str, str], str]:
    """What `tljax advise` says for each target from features alone, before any training."""
    stderr.print("what tljax advise says, from features alone")
    advised = {}
    for target, size in PRESCRIBED:
        words = [
            f"--config.data=embedded:{target}",
            f"--config.init_from={workdir / 'source'}",
            f"--config.model={settings.model}",
            f"--config.train_size={settings.small if size == 'small' else settings.large}",
        ]
        try:
            content = advise(words, workdir / "advice" / f"{target}_{size}", FEATURES_ALONE)
        except InputError as error:  # too few images of a class
            stderr.print(f"no advice: {error}", markup=False)
            continue
        advised[target, size] = content["choice"]["name"]
    return advised


def _grid(settings: Settings, seeds: int) -> Iterator[tuple[str, str, int, str, int]]:
    """Yields target, name of the size, training images, scenario and seed of each transfer."""
    for target, size_name in PRESCRIBED:
        images = settings.small if size_name == "small" else settings.large
        for scenario in TEXTBOOK:
            for seed in range(seeds):
                yield target, size_name, images, scenario, seed


def _print_table(rows: list[CellRow], advised: dict[tuple[str, str], str], out: Console) -> None:
    table = Table(title="test accuracy, mean ± 95 % interval over seeds", title_justify="left")
    table.add_column("target")
    table.add_column("images", justify="right")
    table.add_column("naive", justify="right")
    for scenario in TEXTBOOK:
        table.add_column(scenario.replace("_", "\n"), justify="right")
    table.add_column("prescribed")
    table.add_column("won")
    table.add_column("advised (points lost)")
    for row in rows:
        advice = advised.get((row.target, row.size))
        lost = row.scores[row.winner].mean - row.scores[advice or row.winner].mean
        cells = []
        for scenario in TEXTBOOK:
            text = score(row.scores[scenario])
            cells.append(f"[bold]{text}[/]" if scenario in row.best else text)
        table.add_row(
            f"{row.target} ({SIMILARITY[row.target]}, {row.size})",
            f"{row.train_size:,}",
            f"{row.naive:.3f}",
            *cells,
            row.prescribed,
            f"{row.winner} ({row.verdict})",
            f"{advice} ({100 * lost:.1f})" if advice else "no advice",
        )
    (out if out.is_terminal else Console(highlight=False, width=190)).print(table)
