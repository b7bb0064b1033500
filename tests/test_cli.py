"""The command line: its output, and exit code 2 with one sentence for mistakes of the user."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tljax import cli
from tljax.commands.demo.four_scenarios import Settings, Size, run_demo

CONFIGS = Path(__file__).parents[1] / "configs"
FROM_SCRATCH = ["--config", str(CONFIGS / "from_scratch.py")]
SCENARIOS = ("feature_extraction", "freeze_first", "from_scratch", "fine_tune")
QUICK = [
    "--config.steps=4",
    "--config.train_size=32",
    "--config.batch_size=16",
    "--config.eval_every=2",
    "--config.last_group=layer2_0",
]


def config(name):
    return ["--config", str(CONFIGS / f"{name}.py")]


def run(capsys, *argv):
    code = cli.main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("source")
    argv = ["train", *config("from_scratch"), "--workdir", str(workdir), *QUICK]
    assert cli.main([*argv, "--config.data=embedded:glyphs", "--config.val_fraction=0.01"]) == 0
    return workdir


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_train_then_again_then_evaluate(scenario, source, tmp_path, capsys):
    argv = ["train", *config(scenario), "--workdir", tmp_path, *QUICK]
    if scenario != "from_scratch":
        argv.append(f"--config.init_from={source}")
    code, out, _ = run(capsys, *argv)
    assert code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["scenario"] == scenario
    assert f"test accuracy {result['test_accuracy']:.4f}" in out
    assert f"{result['naive_accuracy']:.4f}" in out
    code, again, _ = run(capsys, *argv)
    assert code == 0
    assert again.splitlines()[0] == out.splitlines()[0]
    code, out, _ = run(capsys, "evaluate", "--workdir", tmp_path)
    assert code == 0
    assert f"accuracy {result['test_accuracy']:.4f}" in out


def test_train_on_a_folder_and_evaluate_on_another(photo_folder, tmp_path, capsys):
    workdir = tmp_path / "run"
    argv = [*config("from_scratch"), "--workdir", workdir, "--config.steps=4"]
    code, _, err = run(capsys, "train", *argv, f"--config.data=folder:{photo_folder}")
    assert code == 0, err
    code, out, _ = run(capsys, "evaluate", "--workdir", workdir, "--data", f"folder:{photo_folder}")
    assert code == 0
    assert "of folder:" in out
    code, _, err = run(capsys, "evaluate", "--workdir", workdir, "--data", "embedded:digits")
    assert code == 2
    assert "cats, dogs" in err


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_plan_needs_no_weights(scenario, capsys):
    code, out, _ = run(capsys, "plan", *config(scenario), "--config.model=vit_micro_patch4_32")
    assert code == 0
    assert "block3" in out
    assert "law: at most 1.05" in out


def test_the_command_line_is_parsed_without_heavy_imports():
    """So `--help` and errors about arguments are fast."""
    program = """
import sys
from tljax import cli
parser = cli.build_parser()
try:
    parser.parse_args(["train", "--confg=page.py"])
except SystemExit as stop:
    assert stop.code == 2
heavy = {"flax", "grain", "jax", "matplotlib", "numpy", "optax", "scipy"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    assert "required: --config" in done.stderr


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {command} " in out for command in cli.COMMANDS)


def test_a_small_demo_prints_the_table_and_writes_the_report(tmp_path, capsys):
    tiny = Size(train_size=20, steps=2, batch_size=16)
    settings = Settings(
        source_train_size=64, source_epochs=1.0, small=tiny, large=tiny, evaluations=1
    )
    rows = run_demo(tmp_path, seeds=1, settings=settings)
    assert {(row.target, row.size) for row in rows} == {
        (target, size) for target in ("digits", "textures") for size in ("small", "large")
    }
    out = capsys.readouterr().out
    assert "naive baseline" in out
    assert "prescribed" in out
    page = (tmp_path / "report.html").read_text()
    assert all(scenario.replace("_", " ") in page for scenario in SCENARIOS)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1 + 4 * 4


# --- mistakes ---------------------------------------------------------------------------------


def test_after_a_refused_config_the_mended_one_runs_in_the_same_workdir(tmp_path, capsys):
    argv = ["train", *FROM_SCRATCH, "--workdir", tmp_path, *QUICK]
    assert run(capsys, *argv, "--config.warmup=99")[0] == 2
    assert run(capsys, *argv, "--config.warmup=1")[0] == 0
    code, _, err = run(capsys, *argv, "--config.warmup=2")
    assert code == 2
    assert "warmup was 1 and is 2" in err


@pytest.mark.parametrize("field", ["batch_size=0", "lr=-1", "schedule=x", "augment=x", "steps=0"])
def test_plan_refuses_what_train_would_refuse(field, capsys):
    code, _, err = run(capsys, "plan", *FROM_SCRATCH, f"--config.{field}")
    assert code == 2
    assert field.split("=")[0] in err
