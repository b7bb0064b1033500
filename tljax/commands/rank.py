"""`tljax rank`."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tljax.commands.arguments import check_image_size, refuse_overrides
from tljax.errors import printable, redacted
from tljax.files import replacing, writable_file

if TYPE_CHECKING:
    from tljax.advice.ranking import Ranking, Scored
    from tljax.advice.source_choice import SourceChoice
    from tljax.advice.sources import Candidate

_PIPE_WIDTH = 200
_STYLE: dict[str, Any] = {"title_justify": "left", "pad_edge": False, "box": box.SIMPLE}
_HEADINGS = {
    "probe": "probe %",
    "knn": "k-NN %",
    "logme": "LogME",
    "h_score": "H-score",
    "nleep": "NLEEP",
    "sfda": "SFDA",
    "leep": "LEEP",
    "nce": "NCE",
    "top1": "top-1",
    "parameters": "parameters",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax rank --data folder:PETS --models 'resnet50.*'"
        " vit_small_patch14_dinov2=dinov2.safetensors runs/glyphs --image_size 224"
    )
    parser.add_argument(
        "--data", required=True, metavar="DATA", help="the target, as in a config: folder:PATH, ..."
    )
    parser.add_argument(
        "--models",
        required=True,
        nargs="+",
        metavar="MODEL",
        help="the source models, with spaces or commas between: a name that `tljax models` lists; a"
        " pattern of such names, e.g. 'vit_small*'; MODEL=FILE, for weights on this disk or at an"
        " address; MODEL=random, for comparison; a workdir of `tljax train`; or a file that"
        " `tljax convert` wrote",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="how many training images to use at most; default: 5000",
    )
    parser.add_argument(
        "--image_size", type=int, metavar="PIXELS", help="of all models; default: each one's own"
    )
    parser.add_argument("--data_dir", metavar="DIR", help="where the files of tfds: data are")
    parser.add_argument("--output", metavar="FILE.json", help="also write everything as JSON")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Rank source models for a target by their frozen features, and say which to try."""
    refuse_overrides(overrides)
    check_image_size(args.image_size)
    output = None if args.output is None else writable_file(Path(args.output), ".json")
    from tljax.advice import ranking as ranking_lib
    from tljax.advice.source_choice import choose
    from tljax.advice.sources import find_candidates

    ranking = ranking_lib.rank(
        args.data,
        find_candidates(args.models),
        images=ranking_lib.IMAGES if args.images is None else args.images,
        image_size=args.image_size,
        data_dir=args.data_dir,
    )
    choice = choose(ranking)
    if output is not None:
        content = {**ranking_lib.to_json(ranking), "choice": choice.to_json()}
        with replacing(output) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print_ranking(ranking, choice, {"image_size": args.image_size, "data_dir": args.data_dir})


def print_ranking(
    ranking: Ranking, choice: SourceChoice, fields: Mapping[str, Any] | None = None
) -> None:
    """Prints scores, prior, agreement, cost, the models to try and how to train them.

    Args:
      ranking, choice: the scores, and what follows from them.
      fields: config fields for training; those that are None are left out.
    """
    from tljax.advice.source_choice import describe

    plain = Console(highlight=False, soft_wrap=True)
    wide = plain if plain.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
    of = "" if ranking.images == ranking.available else f" of {ranking.available:,}"
    plain.print(
        f"{ranking.images:,}{of} training images of {printable(ranking.data)},"
        f" {ranking.num_classes} classes; in brackets the rank",
        markup=False,
    )
    wide.print(_score_table(ranking))
    wide.print(_facts_table(ranking))
    if agreement := ranking.agreement():
        wide.print(_agreement_table(agreement))
    elif len(ranking.models) > 1:
        plain.print("agreement of the scores: needs three models or more")
    plain.print(_describe_cost(ranking), markup=False)
    for sentence in describe(choice):
        plain.print(printable(sentence), markup=False)
    for model in choice.to_try:
        plain.print(f"    {_train_command(ranking, model.candidate, fields or {})}", markup=False)


def _score_table(ranking: Ranking) -> Table:
    """A row a model, in the order of the probes."""
    table = Table(title="scores, the higher the better", **_STYLE)
    table.add_column("source model", overflow="fold")
    shown = [name for name in _HEADINGS if any(name in model.scores for model in ranking.models)]
    for name in (*shown, "mean rank"):
        table.add_column(_HEADINGS.get(name, name), justify="right", no_wrap=True)
    for model, ranks, mean in _in_order(ranking):
        scores = model.scores
        table.add_row(
            Text(printable(model.candidate.name)),
            *(f"{_format(n, scores[n])} ({ranks[n]})" if n in scores else "" for n in shown),
            f"{mean:.1f}",
        )
    return table


def _facts_table(ranking: Ranking) -> Table:
    """What is known of the models without the target, and what their features cost."""
    table = Table(title="prior and cost", **_STYLE)
    table.add_column("source model", overflow="fold")
    published = any(model.candidate.top1 is not None for model in ranking.models)
    headings = ("parameters", "features", "pixels", "GFLOPs an image", "seconds")
    for heading in (*(["ImageNet top-1 %"] if published else []), *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    for model, ranks, _ in _in_order(ranking):
        top1 = model.candidate.top1
        table.add_row(
            Text(printable(model.candidate.name)),
            *(["" if top1 is None else f"{top1:.1f} ({ranks['top1']})"] if published else []),
            f"{model.parameters:,} ({ranks['parameters']})",
            f"{model.width:,}",
            str(model.image_size),
            "" if model.gflops is None else f"{model.gflops:.2f}",
            f"{model.feature_seconds + model.score_seconds:,.1f}",
        )
    return table


def _in_order(ranking: Ranking) -> list[tuple[Scored, dict[str, int], float]]:
    """Models with ranks and mean rank, the best probe first."""
    rows = zip(ranking.models, ranking.ranks(), ranking.mean_ranks(), strict=True)
    return sorted(rows, key=lambda row: -row[0].scores["probe"])


def _format(name: str, value: float) -> str:
    return f"{100 * value:.1f}" if name in ("probe", "knn") else f"{value:.2f}"


def _agreement_table(agreement: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title="agreement: weighted Kendall tau, 1 for the same order", **_STYLE)
    table.add_column("")
    shown = [name for name in _HEADINGS if name in agreement]
    headings = [_HEADINGS[name].removesuffix(" %") for name in shown]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, heading in zip(shown, headings, strict=True):
        cells = [f"{agreement[name][b]:.2f}" if b in agreement[name] else "" for b in shown]
        table.add_row(heading, *cells)
    return table


def _describe_cost(ranking: Ranking) -> str:
    cost = ranking.cost()
    operations = (
        "" if cost["gflops"] is None else f" ({cost['gflops']:,.1f} GFLOPs if none is kept)"
    )
    return (
        f"cost: features of {ranking.images:,} images by {len(ranking.models)} models"
        f" {cost['feature_seconds']:,.1f} s{operations}, scores {cost['score_seconds']:,.1f} s; the"
        " features are kept for later runs"
    )


def _train_command(ranking: Ranking, candidate: Candidate, fields: Mapping[str, Any]) -> str:
    """The command that fine-tunes a model on the target."""
    config = "from_scratch" if candidate.init_from is None else "fine_tune"
    words = ["tljax", "train", "--config", config, "--workdir", "W"]
    source = None if candidate.init_from is None else redacted(candidate.init_from)
    settings = {
        "data": ranking.data,
        "model": candidate.model,
        "init_from": source,
        "last_group": candidate.last_group,
        **fields,
    }
    words += [f"--config.{name}={value}" for name, value in settings.items() if value is not None]
    return printable(shlex.join(words))
