"""`make soak`: kills runs in every phase, for every scenario, a ResNet and a ViT.

    python -m tests.soak [--kills 16] [--workdir DIR] [--seed 0]

Prints the kills by phase and the runs that did not end bit-identical; exits with 1 if any.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak.campaign import PHASES, ROOT, run_campaign, train
from tljax.training.progress import progress_bar
from tljax.transfer import TEXTBOOK

MODELS = {
    "resnet10_32": ["--config.optimizer=sgd"],
    "vit_micro_patch4_32": ["--config.optimizer=adamw", "--config.drop_path=0.1"],
}
LENGTH = [
    "--config.steps=30",
    "--config.eval_every=6",
    "--config.checkpoint_every=3",
    "--config.log_every=4",
    "--config.batch_size=16",
    "--config.train_size=100",
    "--config.lr=0.01",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=16, help="with SIGKILL, in each phase")
    parser.add_argument("--workdir", type=Path, help="default: a temporary folder, removed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return soak(args.workdir or Path(temporary), args.kills, random.Random(args.seed))


def soak(folder: Path, kills: int, rng: random.Random) -> int:
    kinds = [(scenario, model) for model in MODELS for scenario in TEXTBOOK]
    blows = {kind: [] for kind in kinds}
    for phase in PHASES:
        for i in range(kills):
            blows[kinds[i % len(kinds)]].append((phase, "SIGKILL"))
    for i, kind in enumerate(kinds):
        blows[kind].append((PHASES[i % 3], "SIGTERM"))
    for dealt in blows.values():  # in random order, but the last phase last
        rng.shuffle(dealt)
        dealt.sort(key=lambda blow: blow[0] == "write")
    console, began = Console(), time.monotonic()
    total, lost, table = Counter(), [], Table("run", *PHASES, "SIGTERM", "differs")
    with progress_bar() as bar:
        for model in bar.track(MODELS, description="training sources"):
            data = ["--config.data=embedded:glyphs", "--config.val_fraction=0.01"]
            argv = ["--config", str(ROOT / "configs/from_scratch.py"), f"--config.model={model}"]
            train([*argv, *data, *LENGTH, *MODELS[model]], folder / model / "source")
        for scenario, model in bar.track(kinds, description="killing runs"):
            argv = ["--config", str(ROOT / f"configs/{scenario}.py"), f"--config.model={model}"]
            if scenario != "from_scratch":
                argv.append(f"--config.init_from={folder / model / 'source'}")
                argv.append("--config.accept_source=True")  # few steps may not beat the baseline
            place = folder / model / scenario
            place.mkdir()
            campaign = run_campaign(
                [*argv, *LENGTH, *MODELS[model]], place, blows[scenario, model], rng
            )
            struck = campaign.kills
            total += struck
            lost += campaign.differences
            counts = [str(struck[phase, "SIGKILL"]) for phase in PHASES]
            terms = sum(count for (_, sent), count in struck.items() if sent == "SIGTERM")
            differs = str(len(campaign.differences))
            table.add_row(f"{model} {scenario}", *counts, str(terms), differs)
    counts = [str(total[phase, "SIGKILL"]) for phase in PHASES]
    terms = sum(count for (_, sent), count in total.items() if sent == "SIGTERM")
    table.add_row("all", *counts, str(terms), str(len(lost)), style="bold")
    console.print(table)
    console.print(f"{total.total()} signals in {time.monotonic() - began:.0f} s")
    for difference in lost:
        console.print(difference)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
