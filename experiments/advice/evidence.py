"""Gathers what `tljax advise` looks at, of the targets of experiments/defaults.

    python experiments/advice/evidence.py sets --weights FILE --source runs/defaults/glyphs

`sets` is the folder that experiments/defaults/image_sets.py made. Every target that is done is a
row of evidence.csv, and is not looked at again.
"""

import time

import targets

from tljax import experiment
from tljax.advice import distances, evidence
from tljax.advice.strategies import PROBE, config_of

COLUMNS = (
    *("images", "classes", "naive", "parameters", "probe"),
    *("similarity", "best_depth", "neighbours", *distances.NAMES, "seconds"),
)


def main() -> None:
    args = targets.read_arguments(__doc__, "evidence.csv", (100, 400, 2000))
    for target in targets.missing(args):
        row = look_at(target)
        targets.append(args.rows, COLUMNS, [target.columns | row])
        print(*target.columns.values(), row, flush=True)


def look_at(target: targets.Target) -> dict[str, object]:
    """The evidence about one target, in a row."""
    began = time.monotonic()
    built = experiment.build(config_of(PROBE, target.overrides))
    pretrained, dataset = built.read_pretrained(), experiment.load_data(built.config)
    assert pretrained is not None
    found = evidence.gather(built, dataset, evidence.choose_images(dataset), pretrained)
    return {
        "images": found.images,
        "classes": found.classes,
        "naive": found.naive_accuracy,
        "parameters": found.parameters,
        "probe": found.probe,
        "similarity": found.similarity,
        "best_depth": max(found.pretrained, key=lambda depth: depth.probe).group,
        "neighbours": found.pretrained[-1].neighbours,
        **found.distances,
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    main()
