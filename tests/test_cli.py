"""The command line: its output, and exit code 2 with one sentence for mistakes of the user."""

import io
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from PIL import Image
from rich.console import Console

from tljax import cli, console
from tljax import config as config_lib
from tljax.commands.demo.four_scenarios import Settings, run_demo
from tljax.console import print_any_character
from tljax.errors import InputError
from tljax.runs.metrics import read_rows
from tljax.runs.resume import best_row
from tljax.training.options import TrainingOptions

CONFIGS = Path(__file__).parents[1] / "configs"
FROM_SCRATCH = ["--config", str(CONFIGS / "from_scratch.py")]
SCENARIOS = ("feature_extraction", "freeze_first", "from_scratch", "fine_tune")
QUICK = [
    "--config.steps=4",
    "--config.train_size=32",
    "--config.batch_size=16",
    "--config.eval_every=2",
    "--config.image_size=16",
    "--config.last_group=layer2_0",
    "--config.accept_source=True",  # four steps do not beat the naive baseline
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
    argv = [
        *config("from_scratch"),
        "--workdir",
        workdir,
        "--config.steps=4",
        "--config.image_size=16",
    ]
    code, _, err = run(capsys, "train", *argv, f"--config.data=folder:{photo_folder}")
    assert code == 0, err
    code, out, _ = run(capsys, "evaluate", "--workdir", workdir, "--data", f"folder:{photo_folder}")
    assert code == 0
    assert "of folder:" in out
    code, _, err = run(capsys, "evaluate", "--workdir", workdir, "--data", "embedded:digits")
    assert code == 2
    assert "cats, dogs" in err


def test_other_data_may_order_the_classes_differently(photo_folder, tmp_path, capsys):
    for name, number in (("cats", "10"), ("dogs", "2")):  # a folder: 10, 2; a table: 2, 10
        (photo_folder / name).rename(photo_folder / number)
    workdir = tmp_path / "run"
    argv = [*config("from_scratch"), "--workdir", workdir]
    argv += ["--config.image_size=16", "--config.steps=60"]
    code, _, err = run(capsys, "train", *argv, f"--config.data=folder:{photo_folder}")
    assert code == 0, err
    rows = []
    for number, light in ((10, 0), (2, 255)):
        for at in range(8):
            Image.new("RGB", (20, 20), (light, light, at)).save(tmp_path / f"{number}_{at}.png")
            rows.append(f"{number}_{at}.png,{number}")
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    code, out, err = run(
        capsys, "evaluate", "--workdir", workdir, "--data", f"csv:{tmp_path}/t.csv"
    )
    assert code == 0, err
    assert "accuracy 1.0000" in out
    assert "has no test images of its own" in err


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


@pytest.mark.parametrize(
    "model",  # the second is the demo's own, and twice as slow here
    ["vit_micro_patch4_32", pytest.param("resnet10_32", marks=pytest.mark.soak)],
)
def test_a_small_demo_prints_the_table_and_writes_the_report(model, tmp_path, capsys):
    settings = Settings(model, source_train_size=64, source_epochs=1.0, small=20, large=40, steps=2)
    with pytest.raises(InputError, match="does not beat the naive baseline"):
        run_demo(tmp_path, seeds=1, settings=settings)  # two steps on 64 letters
    settings = replace(settings, accept_source=True)
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


# --- the output's encoding ----------------------------------------------------------------------


def printed(monkeypatch, encoding, action):
    """(what `action` returns, what it prints) on a stdout that is strict about its encoding."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        returned = action()
        out.flush()
    return returned, out.buffer.getvalue().decode(encoding)


@pytest.fixture(scope="module")
def foreign(source, tmp_path_factory):
    """A run whose folder, data and classes have names in other alphabets."""
    root = tmp_path_factory.mktemp("foreign") / "Läufe 猫"
    for label, name in enumerate(("Käfer", "猫")):
        (root / "data" / name).mkdir(parents=True)
        for number in range(8):
            grey = Image.new("RGB", (32, 32), (20 * number, 100 * label, 0))
            grey.save(root / "data" / name / f"{number} ñ.png")
    argv = ["train", *config("fine_tune"), "--workdir", str(root / "run"), *QUICK[:1]]
    argv += [f"--config.data=folder:{root / 'data'}", "--config.batch_size=8", *QUICK[-2:]]
    assert cli.main([*argv, f"--config.init_from={source}"]) == 0
    return root


COMMANDS = {
    "evaluate": (["--workdir", "run"], "folder:"),
    "predict": (["--workdir", "run", "data/猫"], "7 \\xf1.png"),
    "predict, to a file": (["--workdir", "run", "data", "--output", "猫.csv"], "\\u732b.csv"),
    "plan": ([*FROM_SCRATCH, "--config.data=folder:data"], "law: at most"),
    "models": ([], "GFLOPs"),
    "models, as a file": (["--csv"], ",image_size,mean,std,"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_in_ascii(name, foreign, monkeypatch):
    monkeypatch.chdir(foreign)
    words, fragment = COMMANDS[name]
    argv = [name.partition(",")[0], *words]
    code, text = printed(monkeypatch, "ascii", lambda: cli.main(argv))
    assert code == 0
    assert fragment in text
    for csv in foreign.glob("*.csv"):
        assert "data/猫/7 ñ.png,猫" in csv.read_text(encoding="utf-8"), "as everywhere"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("ascii", "0.9 +-0.1 \\xe9 \\u732b \\udcff\ncut...\n"),
        ("cp1252", "0.9 ±0.1 é \\u732b \\udcff\ncut…\n"),
        ("utf-8", "0.9 ±0.1 é 猫 \\udcff\ncut…\n"),
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced(encoding, text, monkeypatch):
    def show():
        print_any_character()
        print("0.9 ±0.1 é 猫 \udcff")  # the last: a byte of a file name that is not UTF-8
        Console().print("cut…")

    assert printed(monkeypatch, encoding, show) == (None, text)


def test_without_a_stdout_nothing_is_printed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after `>&-`
    assert cli.main(["models", "--csv"]) == 0
    assert cli.main(["models"]) == 0


def test_a_warning_is_shown_once_and_that_of_a_reader_is_left_to_the_main_process(
    caplog, monkeypatch
):
    monkeypatch.setattr(console, "_said", set())
    for message, key in (("a", None), ("a", None), ("b 1", "b"), ("b 2", "b"), ("b 1", None)):
        console.warn_once(message, key)
    assert caplog.messages == ["a", "b 1", "b 1"]
    assert console.was_said("b")
    assert console.take_deferred_warnings() == ()

    monkeypatch.setattr(console, "_deferred", None)  # restored after the test
    console.defer_warnings()
    for message, key in (("b 3", "b"), ("c 1", "c"), ("c 2", "c")):
        console.warn_once(message, key)
    assert console.take_deferred_warnings() == (("c", "c 1"),)
    assert console.take_deferred_warnings() == ()
    assert len(caplog.messages) == 3


# --- configs by name, and fields without a value -------------------------------------------------


def test_configs_that_come_with_tljax_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fine_tune").mkdir()  # a workdir, say
    (tmp_path / "freeze_first").write_text("notes\n")
    for name in (*SCENARIOS, "recipes/lora"):
        assert config_lib.load(name) == config_lib.load(str(CONFIGS / f"{name}.py")), name
    assert len(config_lib.load_sweep("sweep_lr_k")[1]) == 36
    own = "from tljax.config import base\ndef get_config(arg):\n    return base()\n"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "lora.py").write_text(own)
    assert config_lib.load("recipes/lora.py") == config_lib.base(), "a path comes first"
    assert config_lib.load("recipes/lora").lora_rank is not None


def may_be_none():
    """{field: whether its type includes None}, of every field of a config."""
    schemas = (config_lib.ExperimentFields, TrainingOptions)
    hints = {name: hint for schema in schemas for name, hint in get_type_hints(schema).items()}
    names = [field.name for schema in schemas for field in fields(schema)]
    return {name: type(None) in get_args(hints[name]) for name in names}


def test_none_unsets_exactly_the_fields_whose_type_allows_it(tmp_path):
    page = tmp_path / "page.py"
    values = {bool: True, int: 3, float: 0.5, str: "x", tuple: ("x",)}
    for name, allowed in may_be_none().items():
        kind = config_lib.base().get_type(name)
        page.write_text(
            "from tljax.config import base\ndef get_config(arg):\n    config = base()\n"
            f"    config.{name} = {values[kind]!r} if arg is None else None\n    return config\n"
        )
        for words in ([f"--config.{name}=None"], [f"-config.{name}", "None"]):
            if allowed:
                assert config_lib.load(str(page), words)[name] is None, name
            else:
                with pytest.raises(InputError, match=f"{name} is None, but this field always has"):
                    config_lib.load(str(page), words)
        if allowed:
            assert config_lib.load(f"{page}:none")[name] is None
        else:
            with pytest.raises(InputError, match=f"sets {name} to None, which is not of its type"):
                config_lib.load(f"{page}:none")


def test_the_last_override_counts_with_none_too():
    def k(*values):
        return config_lib.load("freeze_first", [f"--config.k={value}" for value in values]).k

    assert k(3, "None") is None
    assert k("None", 3) == 3
    ruled = config_lib.load("recipes/bit_hyperrule", ["--config.steps=None"])
    assert "steps" in ruled.hyperrule_keeps, "a rule leaves what the user unset"
    assert config_lib.load("fine_tune", ["--config.data=folder:x=None"]).data == "folder:x=None"


# --- mistakes ---------------------------------------------------------------------------------


def test_after_a_refused_config_the_mended_one_runs_in_the_same_workdir(tmp_path, capsys):
    argv = ["train", *FROM_SCRATCH, "--workdir", tmp_path, *QUICK]
    assert run(capsys, *argv, "--config.warmup=99")[0] == 2
    assert run(capsys, *argv, "--config.warmup=1")[0] == 0
    code, _, err = run(capsys, *argv, "--config.warmup=2")
    assert code == 2
    assert "warmup was 1 and is 2" in err
    # The error says how its weights can be trained further, head and all.
    words = re.findall(r"(?:init_from|head_init|scenario)=[^ ),]+", err)
    argv += ["--workdir", tmp_path / "further", *(f"--config.{word}" for word in words)]
    code, _, err = run(capsys, *argv, "--config.warmup=2")
    assert code == 0, err
    began, further = (
        [row for row in read_rows(workdir / "metrics.jsonl") if row["event"] == "val"]
        for workdir in (tmp_path, tmp_path / "further")
    )
    assert further[0]["step"] == 0
    assert further[0]["accuracy"] == best_row(began)["accuracy"]
    assert further[0]["loss"] == pytest.approx(best_row(began)["loss"], rel=1e-5)


def test_another_network_is_no_longer_run(source, capsys):
    argv = ["train", *config("from_scratch"), *QUICK, "--config.val_fraction=0.01"]
    argv += ["--config.data=embedded:glyphs", "--workdir", source]
    code, _, err = run(capsys, *argv, "--config.model=resnet18")
    assert code == 2
    assert "model was resnet10_32 and is resnet18" in err
    assert "init_from" not in err


@pytest.mark.parametrize("field", ["batch_size=0", "lr=-1", "schedule=x", "augment=x", "steps=0"])
def test_plan_refuses_what_train_would_refuse(field, capsys):
    code, _, err = run(capsys, "plan", *FROM_SCRATCH, f"--config.{field}")
    assert code == 2
    assert field.split("=")[0] in err
