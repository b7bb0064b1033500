"""The command line: what it prints, and one sentence with exit code 2 for what a user can mend."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tljax import cli
from tljax.analysis.demo import Settings, Size, run_demo

CONFIGS = Path(__file__).parents[1] / "configs"
SCENARIOS = ("feature_extraction", "freeze_first", "from_scratch", "fine_tune")
QUICK = [
    "--config.steps=4",
    "--config.train_size=32",
    "--config.batch_size=16",
    "--config.eval_every=2",
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


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "evaluate", "plan", "demo"))


def test_a_small_demo_prints_the_table_and_writes_the_report(tmp_path, capsys):
    tiny = Size(train_size=20, steps=2, batch_size=16)
    settings = Settings(
        source_train_size=64, source_epochs=1.0, small=tiny, large=tiny, evaluations=2
    )
    rows = run_demo(tmp_path, seeds=2, settings=settings)
    assert {(row.target, row.size) for row in rows} == {
        (target, size) for target in ("digits", "textures") for size in ("small", "large")
    }
    out = capsys.readouterr().out
    assert "naive baseline" in out
    assert "prescribed" in out
    page = (tmp_path / "report.html").read_text()
    assert all(scenario.replace("_", " ") in page for scenario in SCENARIOS)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1 + 4 * 4 * 2


# --- bad input --------------------------------------------------------------------------------


def folder_with(tmp_path, **classes):
    for name, files in classes.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for file, content in files.items():
            if isinstance(content, bytes):
                (folder / file).write_bytes(content)
            else:
                content.save(folder / file)
    return f"--config.data=folder:{tmp_path / 'data'}"


def images(count=6):
    return {f"{i}.png": Image.new("RGB", (40, 40), (40 * i, 10, 10)) for i in range(count)}


def truncated_jpeg(tmp_path):
    path = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    return path.read_bytes()[:-300]


FROM_SCRATCH = config("from_scratch")
BAD = {
    "missing config": lambda tmp: (["--config", tmp / "nope.py"], "there is no config file"),
    "config that is not Python": lambda tmp: (
        ["--config", write(tmp / "broken.py", "def get_config(:")],
        "SyntaxError",
    ),
    "config that sets a field that is not": lambda tmp: (
        [
            "--config",
            write(
                tmp / "typo.py",
                "from tljax.config import base\n"
                "def get_config(arg):\n    c = base()\n    c.lrr = 1\n    return c\n",
            ),
        ],
        "lrr",
    ),
    "config that gives nothing": lambda tmp: (
        ["--config", write(tmp / "none.py", "def get_config(arg):\n    pass\n")],
        "NoneType",
    ),
    "k where it means nothing": lambda tmp: ([*FROM_SCRATCH, "--config.k=2"], "unset k"),
    "flag file": lambda tmp: ([*FROM_SCRATCH, "--flagfile=/nope"], "unknown argument"),
    "mistyped key": lambda tmp: ([*FROM_SCRATCH, "--config.lrr=1"], "did you mean 'lr'?"),
    "value of the wrong type": lambda tmp: ([*FROM_SCRATCH, "--config.lr=fast"], "config.lr=fast"),
    "argument that is none": lambda tmp: ([*FROM_SCRATCH, "--confg.lr=1"], "unknown argument"),
    "wrong folder": lambda tmp: (
        [*FROM_SCRATCH, f"--config.data=folder:{tmp / 'nope'}"],
        "nope",
    ),
    "unknown data": lambda tmp: ([*FROM_SCRATCH, "--config.data=embedded:digit"], "'digits'"),
    "empty class folder": lambda tmp: (
        [*FROM_SCRATCH, folder_with(tmp, cats=images(), dogs={})],
        "dogs",
    ),
    "one class only": lambda tmp: ([*FROM_SCRATCH, folder_with(tmp, cats=images())], "one class"),
    "truncated JPEG": lambda tmp: (
        [
            *FROM_SCRATCH,
            folder_with(tmp, cats=images(), dogs={**images(), "7.jpg": truncated_jpeg(tmp)}),
            "--config.epochs=3",
        ],
        "7.jpg",
    ),
    "text file named .png": lambda tmp: (
        [
            *FROM_SCRATCH,
            folder_with(tmp, cats=images(), dogs={**images(), "7.png": b"not an image\n"}),
            "--config.epochs=3",
        ],
        "7.png",
    ),
    "k beyond the depth": lambda tmp: (
        [*config("freeze_first"), "--config.k=6", "--config.init_from=x"],
        "k goes from 0 to 5",
    ),
    "pretrained scenario without init_from": lambda tmp: (config("fine_tune"), "init_from"),
    "init_from that is no workdir": lambda tmp: (
        [*config("fine_tune"), f"--config.init_from={tmp}"],
        "config.json",
    ),
    "learning rate that gives NaN": lambda tmp: (
        [*FROM_SCRATCH, *QUICK, "--config.lr=1e30"],
        "lower lr",
    ),
    "both sizes": lambda tmp: (
        [*FROM_SCRATCH, "--config.train_size=5", "--config.train_per_class=5"],
        "set one of them",
    ),
    "more images than there are": lambda tmp: (
        [*FROM_SCRATCH, "--config.train_size=100000"],
        "100000",
    ),
    "unknown model": lambda tmp: ([*FROM_SCRATCH, "--config.model=resnet05"], "'resnet50'"),
    "unknown scenario": lambda tmp: ([*FROM_SCRATCH, "--config.scenario=finetune"], "fine_tune"),
    "unknown optimizer": lambda tmp: ([*FROM_SCRATCH, "--config.optimizer=sdg"], "'sgd'"),
    "unknown schedule": lambda tmp: ([*FROM_SCRATCH, "--config.schedule=cosin"], "'cosine'"),
    "unknown augmentation": lambda tmp: ([*FROM_SCRATCH, "--config.augment=flip"], "augment"),
    "warm-up longer than the run": lambda tmp: (
        [*FROM_SCRATCH, *QUICK, "--config.warmup=9"],
        "warmup is 9 steps",
    ),
    "no batch": lambda tmp: ([*FROM_SCRATCH, "--config.batch_size=0"], "batch_size is 0"),
    "momentum of 2": lambda tmp: ([*FROM_SCRATCH, "--config.momentum=2"], "below 1"),
    "negative learning rate": lambda tmp: ([*FROM_SCRATCH, "--config.lr=-1"], "lr is -1.0"),
    "learning rate that is no number": lambda tmp: (
        [*FROM_SCRATCH, "--config.lr=nan"],
        "lr is nan",
    ),
    "seed beyond 32 bits": lambda tmp: ([*FROM_SCRATCH, "--config.seed=99999999999"], "seed is"),
    "pattern that is none": lambda tmp: ([*FROM_SCRATCH, "--config.decayed=("], "decayed is '('"),
    "train pattern that is none": lambda tmp: ([*FROM_SCRATCH, "--config.train=("], "train='('"),
    "crop area of one number": lambda tmp: ([*FROM_SCRATCH, "--config.crop_area=(.5,)"], "shares"),
    "milestones in steps": lambda tmp: ([*FROM_SCRATCH, "--config.milestones=(30,)"], "shares"),
    "clip at 0": lambda tmp: ([*FROM_SCRATCH, "--config.clip_norm=0"], "clip_norm is 0.0"),
    "drop path of 1": lambda tmp: ([*FROM_SCRATCH, "--config.drop_path=1"], "drop_path is 1.0"),
    "images that do not fit the patches": lambda tmp: (
        [*FROM_SCRATCH, "--config.model=vit_micro_patch4_32", "--config.image_size=30"],
        "try 32",
    ),
}


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(case, tmp_path, capsys):
    words, sentence = BAD[case](tmp_path)
    workdir = tmp_path / "run"
    code, out, err = run(capsys, "train", *words, "--workdir", workdir)
    told = [line for line in err.splitlines() if line.startswith("tljax: ")]
    assert code == 2
    assert len(told) == 1
    assert err.splitlines()[-1] == told[0]
    assert sentence in told[0]
    assert "Traceback" not in err
    assert out == ""
    assert not (workdir / "result.json").exists()


def test_after_a_refused_config_the_mended_one_runs_in_the_same_workdir(tmp_path, capsys):
    argv = ["train", *FROM_SCRATCH, "--workdir", tmp_path, *QUICK]
    assert run(capsys, *argv, "--config.warmup=99")[0] == 2
    assert run(capsys, *argv, "--config.warmup=1")[0] == 0
    code, _, err = run(capsys, *argv, "--config.warmup=2")
    assert code == 2
    assert "warmup was 1 and is 2" in err


def test_an_unwritable_workdir(capsys):
    """Nobody, not even root, makes a folder in /proc."""
    code, _, err = run(capsys, "train", *FROM_SCRATCH, "--workdir", "/proc/tljax")
    assert code == 2
    assert "cannot write to the workdir '/proc/tljax'" in err


def test_a_workdir_below_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "train", *FROM_SCRATCH, "--workdir", tmp_path / "file" / "run")
    assert code == 2
    assert "cannot write to the workdir" in err


@pytest.mark.parametrize("text", ["[]", "{}", "not JSON", '"x"'])
def test_a_damaged_config_of_a_workdir(text, tmp_path, capsys):
    (tmp_path / "config.json").write_text(text)
    code, _, err = run(capsys, "evaluate", "--workdir", tmp_path)
    assert code == 2
    assert "config.json" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("field", ["batch_size=0", "lr=-1", "schedule=x", "augment=x", "steps=0"])
def test_plan_refuses_what_train_would_refuse(field, capsys):
    code, _, err = run(capsys, "plan", *FROM_SCRATCH, f"--config.{field}")
    assert code == 2
    assert field.split("=")[0] in err


def test_evaluate_and_demo_say_what_is_wrong(tmp_path, capsys):
    code, _, err = run(capsys, "evaluate", "--workdir", tmp_path)
    assert code == 2
    assert "not a workdir" in err
    code, _, err = run(capsys, "demo", "--seeds", "0", "--workdir", tmp_path / "demo")
    assert code == 2
    assert "--seeds is 0" in err


@pytest.mark.parametrize("debug", [False, True])
def test_as_a_process(debug, tmp_path):
    """The installed command, its exit code, and the traceback on demand."""
    argv = [sys.executable, "-m", "tljax.cli", *(["--debug"] if debug else [])]
    argv += ["train", "--config", str(tmp_path / "nope.py"), "--workdir", str(tmp_path / "run")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == (1 if debug else 2)
    assert ("Traceback" in done.stderr) == debug
    assert "there is no config file" in done.stderr
