"""`tljax advise`."""

import argparse
from pathlib import Path

from tljax.commands.arguments import check_image_size
from tljax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax advise --data folder:PETS --init_from dinov2.safetensors --model"
        " vit_small_patch14_dinov2 --image_size 98 --workdir runs/advice; then: tljax train"
        " --config runs/advice/advised.py --workdir runs/pets. No label of a test image is read;"
        " test images are only compared with training images, to find near-duplicates."
        " --config.FIELD=VALUE sets a field of every scenario, e.g. --config.train_size=400"
    )
    parser.add_argument(
        "--data", required=True, metavar="D", help="the target, as --config.data of `tljax train`"
    )
    parser.add_argument(
        "--init_from",
        required=True,
        metavar="F",
        help="the source: a name that `tljax models` lists, a file, a workdir or an address",
    )
    parser.add_argument(
        "--model", metavar="M", help="its network; not needed for a workdir or a listed name"
    )
    parser.add_argument(
        "--image_size", metavar="PIXELS", type=int, help="default: as for the weights"
    )
    parser.add_argument(
        "--budget",
        metavar="X",
        type=float,
        default=0.05,
        help="the share of one full fine-tuning that may be spent: at 0.05 features alone decide,"
        " above it scenarios race; where it was measured, on small networks, 0.25 and 1 gave no"
        " better advice (default: 0.05)",
    )
    parser.add_argument(
        "--workdir",
        metavar="W",
        type=Path,
        default=Path("runs/advice"),
        help="for advised.py, advice.json and advice.html (default: runs/advice)",
    )
    parser.add_argument("--train", action="store_true", help="also train what is advised, in W/run")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Say which scenario suits a target, with evidence, and write a config that runs."""
    from tljax.advice.advisor import advise
    from tljax.advice.page import write_advice_page
    from tljax.advice.words import print_advice
    from tljax.commands.advise.source_model import source_fields

    check_image_size(args.image_size)
    refused = [word for word in overrides if not word.startswith("--config.")]
    if refused:
        raise InputError(f"unknown argument '{refused[0]}'; see tljax advise --help")
    named = source_fields(args.init_from, args.model)
    fields = {"data": args.data, "init_from": args.init_from, **named}
    if args.image_size is not None:
        fields["image_size"] = args.image_size
    words = [*(f"--config.{name}={value}" for name, value in fields.items()), *overrides]
    content = advise(words, args.workdir, args.budget, progress=True)
    write_advice_page(args.workdir / "advice.html", content)
    print_advice(content, args.workdir)
    if args.train:
        from tljax import experiment
        from tljax.commands.train import print_result
        from tljax.config import load

        config = load(str(args.workdir / "advised.py"))
        print_result(experiment.run(config, args.workdir / "run").summary)
