"""Runs every scenario by default and with other rates and lengths, on image_sets.py's targets.

    python experiments/defaults/run.py sets --weights FILE                # everything
    python experiments/defaults/run.py sets --weights FILE --shard 0/2    # every second run
    python experiments/defaults/run.py sets --weights FILE --networks dinov2 --variants default
    python experiments/defaults/run.py sets --weights FILE --features features    # for peers.py

Run it from the repository's root. FILE is DINOv2-small. The small network starts from letters; its
source model is trained first, unless --source holds it. Every finished run is appended to
results.csv and is not repeated. make_tables.py makes the tables.

Earlier config files are run by the tljax that they are from:

    git worktree add ../old 5eed38f
    PYTHONPATH=../old python experiments/defaults/run.py sets --weights FILE --old ../old/configs
"""

import argparse
import contextlib
import csv
import io
import itertools
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

import tljax
from tljax import data, experiment
from tljax.commands.sweep import parse_shard
from tljax.config import load as load_config
from tljax.data.folder import FolderSource
from tljax.data.folder import load as load_folder
from tljax.data.splits import stratified_order
from tljax.devices.compilation_cache import use_compilation_cache
from tljax.errors import InputError
from tljax.models import features
from tljax.runs import record
from tljax.training.evaluation import evaluate

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
SETS = ("elpv", "textiles", "mnist5k", "units", "terrain", "icons")
FURTHER = ("stamps", "clipart", "emoji")  # that chose no number of the rule
EMBEDDED = ("digits", "textures")  # of tljax, for experiments/advice: one more kind of target
SCENARIOS = ("feature_extraction", "freeze_first", "fine_tune", "from_scratch")
COLUMNS = (
    *("network", "set", "n", "seed", "scenario", "variant", "test_accuracy", "choice_accuracy"),
    *("choice_size", "val_accuracy", "majority", "train_size", "val_size", "optimizer", "lr"),
    *("steps", "best_step", "seconds", "restarted", "error"),
)
CHOICE = 50, 300  # the fewest and the most images that variants are chosen on
SOLVED = ("lbfgs",)  # optimizers without a rate and a length
DIVERGED = r" became -?(nan|inf)"
DEFAULT, OLD = "default", "old"


class Network(NamedTuple):
    """A network of the study.

    Attributes:
      fields: overrides of the config files.
      sizes, seeds: of its targets.
      rates, lengths: variants, and by what they multiply the default's rate or length.
      old: of the earlier config file of a scenario, what stands before the scenario in its name.
      sets: of its targets; those beside `SETS` without other rates and lengths.
    """

    fields: dict[str, Any]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    rates: dict[str, float]
    lengths: dict[str, float]
    old: str = ""
    sets: tuple[str, ...] = (*SETS, *FURTHER)


THIRDS = {"rate 1/3": 1 / 3, "rate 3": 3.0}
LENGTHS = {"length 1/2": 0.5, "length 2": 2.0}
NETWORKS = {
    "dinov2": Network(
        {"model": "vit_small_patch14_dinov2", "image_size": 98},
        (100, 400),
        (0, 1),
        THIRDS,
        LENGTHS,
        "dinov2_",
    ),
    "resnet10_32": Network(
        {"model": "resnet10_32"},
        (100, 400, 2000),
        (0, 1, 2, 3),
        {**THIRDS, "rate 1/10": 0.1, "rate 10": 10.0},
        LENGTHS,
        sets=(*SETS, *EMBEDDED, *FURTHER),
    ),
}
# Other strategies by the default rule, for experiments/advice: their scenario and networks.
OTHERS = {
    "twice k": ("freeze_first", ("dinov2", "resnet10_32")),
    "lora": ("fine_tune", ("dinov2",)),
}
# Where a DINOv2 run takes too long for all targets.
ONE_FROM_SCRATCH = ("units", 400, 0)
LONGEST_LENGTHS = {"dinov2": 100, "resnet10_32": 400}  # the largest n whose length is varied


class Run(NamedTuple):
    network: str
    set: str
    n: int
    seed: int
    scenario: str
    variant: str

    def folder(self, sets: Path) -> Path:
        return sets / self.set / f"n{self.n}_s{self.seed}"


def runs(variants: tuple[str, ...], networks: tuple[str, ...]) -> Iterator[Run]:
    """The runs of the study; what matters most comes first.

    Args:
      variants: of `default`, `other`, `rate`, `length` and `old`.
      networks: of `NETWORKS`.
    """
    for kind, name in itertools.product(variants, networks):
        network = NETWORKS[name]
        named = {"rate": network.rates, "length": network.lengths, "other": OTHERS}
        for n, seed, scenario, variant, images in itertools.product(
            network.sizes, network.seeds, SCENARIOS, named.get(kind, (kind,)), network.sets
        ):
            if images not in SETS and kind not in (DEFAULT, "other"):
                continue
            if kind == "other" and (
                scenario != OTHERS[variant][0] or name not in OTHERS[variant][1]
            ):
                continue
            if kind == "length" and n > LONGEST_LENGTHS[name]:
                continue
            one = (images, n, seed) == ONE_FROM_SCRATCH and kind in (DEFAULT, OLD)
            if name == "dinov2" and scenario == "from_scratch" and not one:
                continue
            yield Run(name, images, n, seed, scenario, variant)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path, help="folder that image_sets.py made")
    parser.add_argument("--weights", required=True, help="of DINOv2-small")
    parser.add_argument("--source", type=Path, default=Path("runs/defaults/glyphs"))
    parser.add_argument("--shard", default="0/1", metavar="i/n", help="every n-th run, from run i")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=tuple(NETWORKS))
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=(DEFAULT, "other", "rate", "length"),
        default=(DEFAULT, "other", "rate", "length"),
        help="default: all",
    )
    parser.add_argument("--old", type=Path, metavar="CONFIGS", help="run these config files alone")
    parser.add_argument("--features", type=Path, help="save the networks' features, and end")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    args = parser.parse_args()
    use_compilation_cache()
    starts = {"dinov2": args.weights, "resnet10_32": str(args.source)}
    if "resnet10_32" in args.networks:
        train_source(args.source)
    if args.features is not None:
        for name in args.networks:
            save_features(name, starts[name], args.sets, args.features / name)
        return
    if args.old is not None:
        check_old(args.old)
    shard, shards = parse_shard(args.shard)
    variants = args.variants if args.old is None else (OLD,)
    planned = list(runs(tuple(variants), tuple(args.networks)))
    run_all(planned[shard::shards], args.sets, starts, args.results, args.old)


def run_all(
    planned: list[Run], sets: Path, starts: dict[str, str], results: Path, old: Path | None
) -> None:
    """Runs what has no row yet, and appends a row of each."""
    planned = [run for run in planned if run.folder(sets).is_dir()]
    for number, run in enumerate(planned, 1):
        rows = read(results)
        if run in rows:
            continue
        row = train(run, sets, starts, old)
        if row is None:
            continue
        append(results, row)
        rows[run] = {name: str(value) for name, value in row.items()}
        left = time_left([later for later in planned[number:] if later not in rows], rows)
        accuracy = row["error"] or f"test {row['test_accuracy']:.3f}"
        print(
            f"{number}/{len(planned)} {' '.join(map(str, run))}: {accuracy},"
            f" {row['seconds']:.0f} s; about {left / 3600:.1f} h left",
            flush=True,
        )


def train(run: Run, sets: Path, starts: dict[str, str], old: Path | None) -> dict | None:
    """Trains with a config file, in memory; None if the variant is none of a solved head."""
    network = NETWORKS[run.network]
    page = f"{CONFIGS / run.scenario}.py"
    if run.variant == OLD:
        page = f"{old / (network.old + run.scenario)}.py"
    fields = fields_of(run, sets, starts[run.network])
    settled = experiment.resolve(config_of(page, fields))
    if run.variant not in (DEFAULT, OLD):
        if settled.optimizer in SOLVED:
            return None
        fields |= varied(settled, run)
        settled = experiment.resolve(config_of(page, fields))
    began = time.monotonic()
    row = {**run._asdict(), "majority": majority(run.folder(sets)), "error": ""}
    row |= {"optimizer": settled.optimizer, "lr": settled.lr}
    try:
        result = experiment.fit_config(config_of(page, fields))
    except InputError as error:
        if not re.search(DIVERGED, str(error)):
            raise
        return row | {"error": "nan", "seconds": round(time.monotonic() - began, 1)}
    row["seconds"] = round(time.monotonic() - began, 1)
    row["restarted"] = int("restarted" in result.summary)
    row |= {name: result.summary[name] for name in COLUMNS if name in result.summary}
    if run.variant != OLD and (images := choice_images(run, sets)) is not None:
        built = experiment.build(settled)
        chosen = evaluate(built.model, result.variables, images, built.preprocessing, 50)
        row |= {"choice_accuracy": chosen.accuracy, "choice_size": len(images)}
    return row


def fields_of(run: Run, sets: Path, start: str) -> dict[str, Any]:
    """What is set by hand in every run: the network, the data, and what to start from."""
    fields = {**NETWORKS[run.network].fields, "data": f"folder:{run.folder(sets)}"}
    fields["seed"] = run.seed
    return fields if run.scenario == "from_scratch" else {**fields, "init_from": start}


def choice_images(run: Run, sets: Path) -> FolderSource | None:
    """Images of the training side that a target does not train on; None if there are too few.

    Variants are chosen on them: by default small targets keep no image for validation.
    """
    names = {file.relative_to(run.folder(sets)) for file in run.folder(sets).glob("train/*/*.png")}
    whole = sets / run.set
    files = sorted(whole.glob("train/*/*.png"))
    files = [file for file in files if file.relative_to(whole) not in names]
    if len(files) < CHOICE[0]:
        return None
    classes = sorted(path.name for path in (run.folder(sets) / "train").iterdir())
    labels = np.array([classes.index(file.parent.name) for file in files])
    order = stratified_order(labels, np.random.default_rng(run.seed))[: CHOICE[1]]
    return FolderSource([files[row] for row in order], labels[order])


def config_of(page: str, fields: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config with fields that are set as on a command line."""
    return load_config(page, [f"--config.{name}={value}" for name, value in fields.items()])


def varied(settled: ml_collections.ConfigDict, run: Run) -> dict[str, Any]:
    """What a variant sets: a multiple of the default's rate, length or k, or LoRA."""
    network = NETWORKS[run.network]
    if run.variant in OTHERS:
        return {"k": 2 * settled.k} if run.variant == "twice k" else {"lora_rank": 8}
    if run.variant in network.rates:
        return {"lr": settled.lr * network.rates[run.variant]}
    factor = network.lengths[run.variant]
    if settled.steps is not None:
        return {"steps": max(1, round(settled.steps * factor))}
    return {"epochs": settled.epochs * factor}


def majority(folder: Path) -> float:
    """The test accuracy of always answering the class with the most training images."""
    train, test = (
        {path.name: sum(1 for _ in path.iterdir()) for path in sorted((folder / side).iterdir())}
        for side in ("train", "test")
    )
    return test[max(train, key=train.__getitem__)] / sum(test.values())


def train_source(workdir: Path) -> None:
    """Trains the small network on drawn letters, as configs/from_scratch.py says."""
    if record.read_result(workdir) is None:
        fields = {"data": "embedded:glyphs", "train_size": 5000, "epochs": 5, "val_fraction": 0.025}
        experiment.run(config_of(f"{CONFIGS / 'from_scratch.py'}", fields), workdir)


def save_features(network: str, weights: str, sets: Path, folder: Path) -> None:
    """Saves what the head sees of the targets' images, for peers.py."""
    fields, sizes, seeds, *_ = NETWORKS[network]
    model, variables, preprocessing = tljax.load(
        fields["model"], weights, num_classes=0, image_size=fields.get("image_size")
    )
    folder.mkdir(parents=True, exist_ok=True)
    for images, n, seed in itertools.product((*SETS, *FURTHER), sizes, seeds):
        target, file = sets / images / f"n{n}_s{seed}", folder / f"{images}_n{n}_s{seed}.npz"
        if file.exists() or not target.is_dir():
            continue
        loaded = load_folder(str(target))
        kept = {}
        for side, source in (("train", loaded.train), ("test", loaded.test)):
            computed = [
                features(model, variables, data.normalise(batch["image"], preprocessing))
                for batch in data.eval_batches(source, preprocessing, batch_size=50)
            ]
            kept[side] = np.concatenate(computed)[: len(source)]
            kept[f"{side}_labels"] = source.labels
        np.savez(file, **kept)


def check_old(configs: Path) -> None:
    """Exits unless the tljax that runs is the one of these config files."""
    package = Path(tljax.__file__).resolve().parents[1]
    if package != configs.resolve().parent:
        sys.exit(
            f"--old is {configs}, but the tljax that runs is {package}'s; set PYTHONPATH to the"
            " checkout of the config files"
        )


# ----------------------------------------------------------------------------------- the rows


def read(path: Path) -> dict[Run, dict[str, str]]:
    """The rows of results.csv by their run."""
    return {run_of(row): row for row in read_rows(path)}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file, none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_of(row: dict[str, str]) -> Run:
    values = {name: row[name] for name in Run._fields}
    return Run(**{**values, "n": int(row["n"]), "seed": int(row["seed"])})


def append(path: Path, row: dict[str, Any], columns: Sequence[str] = COLUMNS) -> None:
    """Appends a row in one write, so that several shards can share the file."""
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        file.write(",".join(columns) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({name: _short(row.get(name, "")) for name in columns})
    with path.open("a") as file:
        file.write(text.getvalue())


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def time_left(left: list[Run], rows: dict[Run, dict[str, str]]) -> float:
    """Seconds that runs will take, as those with the same network, scenario and size did."""

    def kind(run: Run) -> tuple:
        return run.network, run.scenario, run.n

    took: dict[tuple, list[float]] = {}
    for run, row in rows.items():
        took.setdefault(kind(run), []).append(float(row["seconds"]))
    usual = statistics.mean(itertools.chain(*took.values()))
    return sum(statistics.mean(took.get(kind(run), [usual])) for run in left)


if __name__ == "__main__":
    main()
