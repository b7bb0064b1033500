"""Ranks nine small source models for small targets, and transfers from every one of them.

    python experiments/advice/ranking.py sets

`sets` is the folder that experiments/defaults/image_sets.py made. The source models are trained
first, from random weights with the default rule, on 1,000 images each, and kept. Every row of
ranking.csv is one source on one target: all scores of `tljax rank`, and the test accuracies of a
solved head and of a fine-tuning without trials. Rows that are there are not run again.
make_tables.py judges the scores on them.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import targets
from targets import defaults

from tljax import experiment
from tljax.advice.ranking import PRIORS, SCORES, rank
from tljax.advice.sources import find_candidates
from tljax.config import load
from tljax.devices.compilation_cache import use_compilation_cache
from tljax.runs import record

HERE = Path(__file__).parent
TARGETS = (*defaults.SETS, *defaults.EMBEDDED, *defaults.FURTHER)
# Of each source its network and data, `set:` being a folder of `sets`, its training side.
SOURCES = {
    "glyphs": ("resnet10_32", "embedded:glyphs"),
    "glyphs_vit": ("vit_micro_patch4_32", "embedded:glyphs"),
    "glyphs_cut": ("resnet10_32", "embedded:glyphs"),
    "digits": ("resnet10_32", "embedded:digits"),
    "textures": ("resnet10_32", "embedded:textures"),
    "mnist5k": ("resnet10_32", "set:mnist5k"),
    "units": ("resnet10_32", "set:units"),
    "terrain": ("resnet10_32", "set:terrain"),
    "random": ("resnet10_32", "embedded:glyphs"),  # one step at a rate of nothing
}
CUT = "layer3_0"  # the last group of `glyphs_cut`
TRANSFERS = ("feature_extraction", "fine_tune")
COLUMNS = ("target", "n", "seed", "source", *SCORES, *PRIORS, *TRANSFERS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path)
    parser.add_argument("--sources", type=Path, default=Path("runs/advice_sources"))
    parser.add_argument("--sizes", nargs="+", type=int, default=(100, 400))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
    parser.add_argument("--rows", type=Path, default=HERE / "ranking.csv")
    args = parser.parse_args()
    use_compilation_cache()
    for name in SOURCES:
        train_source(name, args.sets, args.sources / name)
    done = {tuple(row[name] for name in COLUMNS[:4]) for row in targets.read(args.rows)}
    for n, seed, target in itertools.product(args.sizes, args.seeds, TARGETS):
        data = data_of(target, n, seed, args.sets)
        if data is None:
            continue
        words = [f"--config.data={data}", f"--config.seed={seed}"]
        words += [f"--config.train_size={n}"] if target in defaults.EMBEDDED else []
        asked = [name for name in SOURCES if data_set(name) != target]
        missing = [name for name in asked if (target, str(n), str(seed), name) not in done]
        if missing:
            scores = score(data, n, seed, missing, args.sources)
        for name in missing:
            row = {"target": target, "n": n, "seed": seed, "source": name, **scores[name]}
            row |= transfer(name, words, args.sources / name)
            targets.append(args.rows, COLUMNS, [row], of_a_target=())
            print(row, flush=True)


def data_set(source: str) -> str:
    """The name of the data set that a source was trained on."""
    return SOURCES[source][1].partition(":")[2]


def train_source(name: str, sets: Path, workdir: Path) -> None:
    model, data = SOURCES[name]
    if record.read_result(workdir) is not None:
        return
    if data.startswith("set:"):
        data = f"folder:{sets / data_set(name) / 'train'}"
    words = [f"--config.model={model}", f"--config.data={data}", "--config.train_size=1000"]
    if name == "glyphs_cut":
        words.append(f"--config.last_group={CUT}")
    if name == "random":
        words += ["--config.steps=1", "--config.lr=1e-12"]
    experiment.run(load("from_scratch", words), workdir)


def data_of(target: str, n: int, seed: int, sets: Path) -> str | None:
    """The data of a target; None if there is none of this size."""
    folder = sets / target / f"n{n}_s{seed}"
    if target in defaults.EMBEDDED:
        return f"embedded:{target}"
    return f"folder:{folder}" if folder.is_dir() else None


def score(
    data: str, n: int, seed: int, names: list[str], sources: Path
) -> dict[str, dict[str, float]]:
    """The figures of `tljax rank` of each source on `n` images of a target."""
    named = [str(sources / name) for name in names]
    ranking = rank(data, find_candidates(named), images=n, seed=seed)
    return {name: model.figures for name, model in zip(names, ranking.models, strict=True)}


def transfer(name: str, words: list[str], workdir: Path) -> dict[str, Any]:
    """Test accuracy of each transfer from a source."""
    found = {}
    for scenario in TRANSFERS:
        more = [f"--config.model={SOURCES[name][0]}"]
        more += [f"--config.init_from={workdir}"]
        more += [f"--config.last_group={CUT}"] if name == "glyphs_cut" else []
        more += ["--config.wise_ft_alpha=1"] if scenario == "fine_tune" else []
        config = load(scenario, [*words, *more, "--config.accept_source=True"])
        found[scenario] = experiment.fit_config(config).summary["test_accuracy"]
    return found


if __name__ == "__main__":
    main()
