"""The `tljax` command: one thin function a subcommand.

Exit codes: 0 done; 2 something that the user can mend, said in one sentence on stderr; 75 stopped
by SIGTERM, or by the end of another process of the job: run the same command again; 130 Ctrl-C.
"""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tljax.devices.preemption import EXIT_CODE as PREEMPTED
from tljax.devices.preemption import LostProcess, Preempted, sigterm_raises
from tljax.devices.startup import begin_command
from tljax.errors import InputError, printable

_CONFIG_HELP = (
    "a config file, e.g. configs/fine_tune.py; any field of it can be overridden by"
    " --config.FIELD=VALUE, e.g. --config.lr=0.03 --config.data=folder:PETS; --config.data takes"
    " embedded:NAME, folder:PATH, or tfds:NAME[/CONFIG][:VERSION] (TensorFlow Datasets), whose"
    " splits may be chosen: '--config.data=tfds:cifar10?train=train[:80%%],val=train[80%%:]'"
)


def train(args: argparse.Namespace, overrides: list[str]) -> None:
    """Train by a config; run the same command again to go on where it stopped."""
    config = _config(args.config, overrides)
    from tljax import experiment
    from tljax.commands.summary import print_result
    from tljax.devices import processes

    processes.join(args.coordinator_address, args.num_processes, args.process_id)
    with processes.detect_lost_process():
        result = experiment.run(
            config,
            Path(args.workdir),
            accept_changes=args.accept_changes,
            profile=args.profile,
        )
    if processes.is_first():
        print_result(result.summary)


def evaluate(args: argparse.Namespace, overrides: list[str]) -> None:
    """Evaluate the best weights of workdirs on their test data, or on data that have shifted."""
    _no_overrides(overrides)
    workdirs = [Path(workdir) for workdir in args.workdir]
    if args.data is not None:
        from tljax.commands import drift
        from tljax.commands.drift_table import print_drift

        drifts = drift.measure(
            workdirs, args.data, args.split, args.task, args.refit_head, args.data_dir
        )
        print_drift(drifts)
        return
    if args.refit_head:
        raise InputError("--refit_head fits a head to shifted data; give them with --data")
    from tljax import experiment
    from tljax.commands.summary import print_evaluation

    for workdir in workdirs:
        for evaluated in experiment.evaluate_workdir(workdir, args.split, args.task, args.data_dir):
            print_evaluation(evaluated)


def predict(args: argparse.Namespace, overrides: list[str]) -> None:
    """Classify images with the best weights of a workdir."""
    _no_overrides(overrides)
    from tljax.commands import prediction
    from tljax.commands.summary import print_predictions

    output = Path(args.output) if args.output is not None else None
    paths = [Path(path) for path in args.paths]
    rows = prediction.predict_files(Path(args.workdir), paths, output, args.on_error, args.task)
    if output is None:
        print_predictions(rows)
    else:
        print(f"wrote {printable(output)}: {len(rows):,} images")


def convert(args: argparse.Namespace, overrides: list[str]) -> None:
    """Write any checkpoint as a safetensors file of tljax's own, for init_from."""
    _no_overrides(overrides)
    from tljax.commands import publishing
    from tljax.commands.summary import print_written

    print_written(publishing.convert(args.source, args.model, Path(args.output)))


def export(args: argparse.Namespace, overrides: list[str]) -> None:
    """Write weights under timm's or torchvision's names, with a model card."""
    _no_overrides(overrides)
    if (args.workdir is None) == (args.init_from is None):
        raise InputError("export takes either --workdir, or --init_from with --model; give one")
    if args.task is not None and args.workdir is None:
        raise InputError("--task goes with --workdir, and names one of the run's tasks")
    if (args.model is None) != (args.init_from is None):
        raise InputError("--model goes with --init_from, and names the network in it; give both")
    from tljax.commands import publishing
    from tljax.commands.summary import print_written

    output = Path(args.output)
    if args.workdir is not None:
        written = publishing.export_workdir(Path(args.workdir), args.format, output, args.task)
    else:
        written = publishing.export_checkpoint(args.init_from, args.model, args.format, output)
    print_written(written)


def plan(args: argparse.Namespace, overrides: list[str]) -> None:
    """Print what a config would train, freeze and cost; starts no training, needs no weights."""
    config = _config(args.config, overrides)
    if args.max_batch and args.target is None:
        raise InputError("--max-batch is of a TPU slice; name one with --target")
    if args.target is not None:
        import jax

        from tljax.commands.plan.target import check, print_target

        check(args.target)
        jax.config.update("jax_platforms", "cpu")  # with libtpu here, it would look for a TPU
    from tljax.commands.plan.table import print_plan

    print_plan(config, args.compile)
    if args.target is not None:
        print_target(config, args.target, args.max_batch)


def find_lr(args: argparse.Namespace, overrides: list[str]) -> None:
    """Suggest a learning rate for a config, by a few training steps at growing rates."""
    config = _config(args.config, overrides)
    from tljax.commands import find_lr as lr_finder
    from tljax.files import writable_file

    output = writable_file(Path(args.output), ".png") if args.output is not None else None
    curve = lr_finder.find(config, args.lowest, args.highest, args.steps, progress=True)
    lr_finder.print_curve(curve)
    if output is not None:
        lr_finder.draw(curve, output)


def probe(args: argparse.Namespace, overrides: list[str]) -> None:
    """Train a grid of linear heads on frozen features at once, and choose one on validation."""
    config = _config(args.config, overrides)
    try:
        weight_decays = [float(word) for word in args.weight_decays.split(",")]
    except ValueError:
        raise InputError(
            f"--weight_decays is '{args.weight_decays}'; give numbers with commas between, e.g."
            " 0,1e-4"
        ) from None
    from tljax.commands.probe import linear_probe
    from tljax.commands.probe.table import print_probe, write_grid

    workdir = Path(args.workdir)
    result = linear_probe.run(config, workdir, weight_decays)
    write_grid(result, workdir)
    print_probe(result, workdir)


def report(args: argparse.Namespace, overrides: list[str]) -> None:
    """Write one page about finished runs: accuracy, curves, mistakes, calibration, plans, cost."""
    _no_overrides(overrides)
    from tljax.analysis.report.of_runs import write_report

    png = Path(args.png) if args.png is not None else None
    runs = write_report([Path(folder) for folder in args.folders], Path(args.output), png)
    print(f"wrote {printable(args.output)}: {runs:,} runs")


def sweep(args: argparse.Namespace, overrides: list[str]) -> None:
    """Run every run of a config page's sweep(), and choose on validation accuracy."""
    from tljax.commands.sweep import parse_shard, run_sweep

    run_sweep(
        args.config,
        overrides,
        Path(args.workdir),
        shard=parse_shard(args.shard),
        by=args.by.split(",") if args.by else (),
        accept_changes=args.accept_changes,
        stop_at_errors=args.debug,
    )


def demo(args: argparse.Namespace, overrides: list[str]) -> None:
    """Run the four scenarios on embedded data, offline, and write a report."""
    _no_overrides(overrides)
    from tljax.commands.demo import run_demo

    run_demo(Path(args.workdir), seeds=args.seeds)


def models(args: argparse.Namespace, overrides: list[str]) -> None:
    """List the checkpoints known by name, with where they lie and what images they expect."""
    _no_overrides(overrides)
    from tljax.commands.models import print_models

    print_models(args.pattern, args.csv)


def prepare(args: argparse.Namespace, overrides: list[str]) -> None:
    """Download and prepare a data set of TensorFlow Datasets, as array_record."""
    _no_overrides(overrides)
    from tljax.data.tfds import prepare as tfds_prepare

    folder, made = tfds_prepare.prepare(args.data, args.data_dir)
    print(f"{'prepared' if made else 'there already:'} {printable(folder)}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="tljax",
        description="Transfer learning for vision in JAX.",
        epilog="Each command has its own --help.",
    )
    debug_help = "show the traceback of an error"
    parser.add_argument("--debug", action="store_true", help=debug_help)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(function, **kwargs) -> argparse.ArgumentParser:
        summary = function.__doc__.splitlines()[0]
        sub = commands.add_parser(
            function.__name__, help=summary, description=summary, allow_abbrev=False, **kwargs
        )
        sub.set_defaults(run=function)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug_help)
        return sub

    train_parser = command(
        train,
        epilog="example: tljax train --config configs/fine_tune.py --workdir runs/pets"
        " --config.data=folder:PETS --config.init_from=runs/source",
    )
    train_parser.add_argument("--config", required=True, metavar="FILE", help=_CONFIG_HELP)
    train_parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="for checkpoints, metrics and the result"
    )
    train_parser.add_argument(
        "--accept_changes",
        action="store_true",
        help="go on with a run although versions, code or devices are not those it began with; its"
        " result names them",
    )

    train_parser.add_argument(
        "--profile",
        action="store_true",
        help="write a trace of a few steps into DIR/profile, for TensorBoard or ui.perfetto.dev",
    )

    together = train_parser.add_argument_group(
        "several processes",
        "Run the same command on every machine, each with a --process_id of its own; not needed on"
        " TPU VMs, which know each other.",
    )
    together.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="a free port of process 0's machine"
    )
    together.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    together.add_argument("--process_id", type=int, metavar="I", help="of this one: 0 to N - 1")

    task_help = "which one, if the run was trained on several; its name as in config.data"
    evaluate_parser = command(
        evaluate,
        epilog="example: tljax evaluate --workdir runs/pets --data folder:PETS_AT_NIGHT"
        " --refit_head",
    )
    evaluate_parser.add_argument(
        "--workdir",
        required=True,
        nargs="+",
        metavar="DIR",
        help="of runs of `tljax train`; with --data, runs that differ in their seed are averaged",
    )
    evaluate_parser.add_argument(
        "--data",
        metavar="DATA",
        help="folder:PATH, tfds:NAME or embedded:NAME, of the same classes, to see how much"
        " accuracy drops on it; default: what it trained on",
    )
    evaluate_parser.add_argument(
        "--data_dir", metavar="DIR", help="where tfds: data lies; default: where it lay in training"
    )
    evaluate_parser.add_argument(
        "--refit_head",
        action="store_true",
        help="with --data: also fit a new head on its training images, the rest frozen, to see what"
        " that recovers",
    )
    evaluate_parser.add_argument("--task", metavar="NAME", help=task_help)
    evaluate_parser.add_argument(
        "--split", choices=("test", "val", "train"), default="test", help="default: test"
    )

    predict_parser = command(
        predict,
        epilog="example: tljax predict --workdir runs/pets holiday/ cat.jpg --output pets.csv",
    )
    predict_parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="of a run of `tljax train`"
    )
    predict_parser.add_argument(
        "paths", nargs="+", metavar="IMAGE_OR_FOLDER", help="folders are searched to the bottom"
    )
    predict_parser.add_argument(
        "--output",
        metavar="FILE.csv",
        help="a row an image: file, prediction, probability, and each class's probability;"
        " default: a table on the terminal",
    )
    predict_parser.add_argument(
        "--on_error",
        choices=("fail", "skip"),
        default="fail",
        help="what to do about an image that cannot be read; default: fail",
    )
    predict_parser.add_argument("--task", metavar="NAME", help=task_help)

    convert_parser = command(
        convert,
        epilog="example: tljax convert resnet50.pth --model resnet50 --output resnet50.safetensors",
    )
    convert_parser.add_argument(
        "source", metavar="SOURCE", help="a checkpoint: a name that is known, a file, or an address"
    )
    convert_parser.add_argument(
        "--model", required=True, metavar="NAME", help="the network in it, e.g. resnet50"
    )
    convert_parser.add_argument(
        "--output", required=True, metavar="FILE.safetensors", help="the file to write"
    )

    export_parser = command(
        export,
        epilog="example: tljax export --workdir runs/pets --format timm --output pets.safetensors",
    )
    export_parser.add_argument(
        "--workdir", metavar="DIR", help="of a run of `tljax train`, whose best weights are taken"
    )
    export_parser.add_argument("--task", metavar="NAME", help=task_help)
    export_parser.add_argument(
        "--init_from", metavar="SOURCE", help="instead of --workdir: any checkpoint"
    )
    export_parser.add_argument(
        "--model", metavar="NAME", help="the network in --init_from, e.g. resnet50"
    )
    export_parser.add_argument(
        "--format", required=True, metavar="LIBRARY", help="timm or torchvision: whose names"
    )
    export_parser.add_argument(
        "--output",
        required=True,
        metavar="FILE.safetensors",
        help="the file to write; the model card goes beside it, as FILE.md",
    )

    plan_parser = command(plan)
    plan_parser.add_argument("--config", required=True, metavar="FILE", help=_CONFIG_HELP)

    plan_parser.add_argument(
        "--compile", action="store_true", help="also compile the step, for its peak memory (slow)"
    )

    plan_parser.add_argument(
        "--target",
        metavar="SLICE",
        help="also compile the step for a TPU slice, e.g. v5e:2x4 or v4:2x2x1, which need not be"
        " there: memory, collectives, least time (a minute or so; needs the extra `tpu`)",
    )
    plan_parser.add_argument(
        "--max-batch", action="store_true", help="also search the largest batch that fits --target"
    )

    find_parser = command(
        find_lr,
        epilog="example: tljax find_lr --config configs/fine_tune.py --config.init_from=runs/source"
        " --output lr.png; trains a copy: no workdir is written, and only training images are read",
    )
    find_parser.add_argument("--config", required=True, metavar="FILE", help=_CONFIG_HELP)
    find_parser.add_argument(
        "--lowest", type=float, default=1e-6, metavar="LR", help="the first rate; default: 1e-6"
    )
    find_parser.add_argument(
        "--highest", type=float, default=10.0, metavar="LR", help="the last rate; default: 10"
    )
    find_parser.add_argument(
        "--steps", type=int, default=100, metavar="N", help="how many; default: 100"
    )
    find_parser.add_argument("--output", metavar="FILE.png", help="draw loss against rate, too")

    probe_parser = command(
        probe,
        epilog="example: tljax probe --config configs/dinov2_feature_extraction.py --workdir"
        " runs/probe --config.data=folder:PETS; DINOv2's 13 learning rates by the class tokens of"
        " 1 or 4 last blocks, with and without the patches' mean; a ResNet's pooled features: the"
        " rates alone",
    )
    probe_parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help=f"{_CONFIG_HELP}; of feature extraction, whose lr, schedule and weight_decay the grid"
        " replaces",
    )
    probe_parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="for result.json, grid.csv, grid.png and the chosen head",
    )
    probe_parser.add_argument(
        "--weight_decays", default="0", metavar="X,...", help="of the grid; default: 0, as DINOv2"
    )

    models_parser = command(models, epilog="example: tljax models 'vit_small*dinov2*'")
    models_parser.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help="a part of the name, or a pattern like 'vit_*'",
    )
    models_parser.add_argument(
        "--csv", action="store_true", help="print every column, with the figures' sources, as CSV"
    )

    report_parser = command(
        report, epilog="example: tljax report runs/pets runs/sweep --output pets.html"
    )
    report_parser.add_argument(
        "folders", nargs="+", metavar="DIR", help="workdirs, and folders that hold some"
    )
    report_parser.add_argument(
        "--output", required=True, metavar="FILE.html", help="the page, which needs no other file"
    )
    report_parser.add_argument(
        "--png",
        metavar="DIR",
        help="for the figures as PNG files; default: FILE_figures beside the page",
    )

    sweep_parser = command(
        sweep,
        epilog="example: tljax sweep --config configs/sweep_lr_k.py --workdir runs/sweep"
        " --config.init_from=runs/glyphs; the same command again skips what is done and goes on"
        " with what was interrupted",
    )
    sweep_parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a config file with a sweep() beside get_config, that yields a dict of fields for"
        " each run; --config.FIELD=VALUE holds for every run",
    )
    sweep_parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="gets runs/NAME, a workdir for each run, and results.csv, a row for each run",
    )
    sweep_parser.add_argument(
        "--shard",
        default="0/1",
        metavar="I/N",
        help="do every N-th run from the I-th on, e.g. 0/2 here and 1/2 on another machine;"
        " results.csv has whatever lies in DIR/runs",
    )
    sweep_parser.add_argument(
        "--by",
        metavar="FIELD,...",
        help="choose a best configuration for each value of these fields; for each data set and"
        " size it is done anyway",
    )
    sweep_parser.add_argument(
        "--accept_changes",
        action="store_true",
        help="go on with runs that began under other versions, code or devices, as `train` does",
    )

    prepare_parser = command(
        prepare,
        epilog="example: tljax prepare tfds:oxford_iiit_pet --data_dir ~/data; needs the extra"
        " `prepare`, i.e. TensorFlow, which training does not",
    )
    prepare_parser.add_argument(
        "data",
        metavar="tfds:NAME[/CONFIG][:VERSION]",
        help="a data set that TFDS knows, or package.module.Builder for a builder of your own",
    )
    prepare_parser.add_argument(
        "--data_dir", metavar="DIR", help="default: TFDS_DATA_DIR, or ~/tensorflow_datasets"
    )

    demo_parser = command(demo)
    demo_parser.add_argument(
        "--workdir", default="runs/demo", metavar="DIR", help="for the report; default: runs/demo"
    )
    demo_parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="runs of each cell; default: 3"
    )
    return parser


def command() -> int:
    """Entry point of the `tljax` command: `main` in a process whose memory is in huge pages."""
    begin_command()
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """The command of these arguments, by default those of the process; returns the exit code."""
    args, overrides = build_parser().parse_known_args(argv)
    code = _run(args, overrides)
    if code and args.command == "train":
        from tljax.devices import processes

        processes.exit_after_failure(code)
    return code


def _run(args: argparse.Namespace, overrides: list[str]) -> int:
    try:
        use_compilation_cache()
        with _warnings_shown(), sigterm_raises():
            args.run(args, overrides)
    except InputError as error:
        if args.debug:
            raise
        print(f"tljax: {printable(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has enough, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a file that may not be read, ...
        if args.debug:
            raise
        where = f" ({error.filename})" if error.filename else ""
        what = printable(f"{error.strerror or error}{where}")
        print(f"tljax: {what}; mend that and run the same command again", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if args.debug or "Unable to initialize backend" not in str(error):
            raise
        what = printable(str(error).split(" (set")[0])
        print(f"tljax: {what}; unset JAX_PLATFORMS, or set it to what is there", file=sys.stderr)
        return 2
    except (Preempted, LostProcess) as error:
        print(f"tljax: {error}", file=sys.stderr)
        return PREEMPTED
    except KeyboardInterrupt:
        print("tljax: stopped; the same command goes on from what was saved", file=sys.stderr)
        return 130
    return 0


def _config(path: str, overrides: list[str]):
    from tljax import config

    return config.load(path, overrides)


def _no_overrides(overrides: list[str]) -> None:
    if overrides:
        raise InputError(f"unknown argument '{overrides[0]}'; see tljax --help")


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """Prints tljax's own warnings as it prints its errors, and nowhere else in another form."""
    logger, handler = logging.getLogger("tljax"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("tljax: warning: %(message)s"))
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, for a faster second start; JAX's own variable wins."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(caches / "tljax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # or small ones add up


if __name__ == "__main__":
    sys.exit(command())
