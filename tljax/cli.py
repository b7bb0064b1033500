"""The `tljax` command: parses the arguments, runs a command of `tljax.commands`, exits.

Exit codes: 0 done; 2 an error that the user can fix, in one sentence on stderr; 75 stopped by
SIGTERM, or because another process of the job ended: run the same command again; 130 Ctrl-C, after
which a run has saved its state.
"""

import argparse
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from tljax.console import print_any_character
from tljax.devices.compilation_cache import use_compilation_cache
from tljax.devices.preemption import EXIT_CODE as PREEMPTED
from tljax.devices.preemption import INTERRUPTED, LostProcess, Preempted, sigterm_raises
from tljax.devices.startup import begin_command
from tljax.errors import InputError, printable

# Modules of tljax.commands, in the order in which --help lists them.
COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "convert",
    "export",
    "plan",
    "find_lr",
    "probe",
    "advise",
    "models",
    "rank",
    "report",
    "sweep",
    "folds",
    "prepare",
    "demo",
)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line; imports neither JAX nor NumPy."""
    parser = argparse.ArgumentParser(
        prog="tljax",
        description="Transfer learning for vision in JAX.",
        epilog="Each command has its own --help.",
    )
    debug_help = "show the traceback of an error"
    parser.add_argument("--debug", action="store_true", help=debug_help)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"tljax.commands.{name}")
        summary = module.run.__doc__.splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.set_defaults(run=module.run)
        # No default here: it would replace the value of `tljax --debug COMMAND`.
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug_help)
        module.add_arguments(sub)
    return parser


def command() -> int:
    """The entry point of the `tljax` command: runs `main` in a process that is prepared for it."""
    begin_command()
    code = main()
    if code == INTERRUPTED:  # does not wait for threads, e.g. one that compiles
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
      argv: its name and arguments; None: those of this process.
    """
    print_any_character()
    args, overrides = build_parser().parse_known_args(argv)
    code = _run(args, overrides)
    if code and args.command == "train":
        from tljax.devices import processes

        processes.exit_after_failure(code)
    return code


def _run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the command; prints an expected exception in one line and returns its exit code."""
    try:
        use_compilation_cache()
        with _print_warnings(), sigterm_raises():
            args.run(args, overrides)
    except BrokenPipeError:  # the reader of the output has seen enough, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Preempted, LostProcess) as error:
        print(f"tljax: {error}", file=sys.stderr)
        return PREEMPTED
    except KeyboardInterrupt as error:
        print(f"tljax: {error or _stopped_at_once(args.command)}", file=sys.stderr)
        return INTERRUPTED
    except (InputError, OSError, RuntimeError) as error:
        message = _describe(error)
        if message is None or args.debug:
            raise
        print(f"tljax: {message}", file=sys.stderr)
        return 2
    return 0


def _stopped_at_once(command: str) -> str:
    """What Ctrl-C has stopped before it could save its state."""
    resumes = command in ("train", "sweep", "folds")
    return "stopped" + ("; the same command resumes from what was saved" if resumes else "")


def _describe(error: InputError | OSError | RuntimeError) -> str | None:
    """Returns one sentence about an error that the user can fix; None if it is not one."""
    if isinstance(error, InputError):
        return printable(error)
    if isinstance(error, OSError):  # a full disk, a file that must not be read, ...
        where = f" ({error.filename})" if error.filename else ""
        what = printable(f"{error.strerror or error}{where}")
        return f"{what}; fix that and run the same command again"
    if "Unable to initialize backend" in str(error):
        what = printable(str(error).split(" (set")[0])
        return f"{what}; unset JAX_PLATFORMS, or set it to a platform of this machine"
    return None


@contextlib.contextmanager
def _print_warnings() -> Iterator[None]:
    """Prints tljax's own warnings on stderr, in the form of its errors, and nowhere else."""
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


if __name__ == "__main__":
    sys.exit(command())
