"""A sweep: it compiles nothing twice, loses nothing, and selects on validation."""

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.campaign import ROOT, compare
from tljax import cli
from tljax.analysis.results import RecordedRun, best_value, read_runs, select, write_results
from tljax.commands.sweep import parse_shard
from tljax.commands.sweep import runs as sweep_runs
from tljax.commands.sweep.listing import list_runs, run_name
from tljax.commands.sweep.table import print_selections
from tljax.errors import InputError

# Two runs that finish, and two that diverge.
PAGE = """
from tljax.config import base

def get_config(arg=None):
    config = base()
    config.update({
        "scenario": "from_scratch", "augment": "crop", "train_size": 40, "batch_size": 16,
        "last_group": "layer1_0", "steps": 5, "eval_every": 4, "eval_dense": True, "log_every": 2,
    })
    return config

def sweep():
    for lr in (0.05, 1e38):
        for seed in (0, 1):
            yield {"lr": lr, "seed": seed}
"""
NAMES = [f"lr={lr},seed={seed}" for lr in ("0.05", "1e38") for seed in (0, 1)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.py"
    path.write_text(PAGE)
    return path


def argv(page, workdir, *more):
    return ["sweep", "--config", str(page), "--workdir", str(workdir), *more]


@pytest.fixture(scope="module")
def straight(page, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep") / "straight"
    assert cli.main(argv(page, workdir)) == 2, "two runs diverge"
    return workdir


def rows(workdir):
    """Rows of results.csv, without times."""
    with (workdir / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        del row["wall_seconds"]
    return table


def same_runs(a, b):
    return rows(a) == rows(b) and not [
        difference
        for name in NAMES[:2]
        for difference in compare(a / "runs" / name, b / "runs" / name)
    ]


def test_one_row_a_run_and_a_failure_does_not_stop_the_others(straight):
    table = rows(straight)
    assert [row["name"] for row in table] == NAMES
    assert [row["status"] for row in table] == ["done", "done", "failed", "failed"]
    for row in table[:2]:
        result = json.loads((straight / "runs" / row["name"] / "result.json").read_text())
        for name in ("val_accuracy", "test_accuracy", "best_step", "trainable_parameters"):
            assert row[name] == str(result[name])
        assert (row["selected"], row["selected_among"]) == ("True", "1")
    for row in table[2:]:
        assert "lower lr" in row["error"]
        assert (row["selected"], row["val_accuracy"]) == ("False", "")


def test_shards_make_the_whole_and_compile_nothing_again(page, straight, tmp_path, capsys):
    assert cli.main(argv(page, tmp_path, "--shard", "0/2")) == 2
    assert [row["name"] for row in rows(tmp_path)] == NAMES[::2]
    assert cli.main(argv(page, tmp_path, "--shard", "1/2")) == 2
    assert same_runs(straight, tmp_path)
    out = capsys.readouterr().out
    assert out.count("programs compiled: 0 for 2 runs\n") == 2, "`straight` compiled all of them"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert cli.main(argv(page, tmp_path)) == 2
    out, err = capsys.readouterr()
    assert "4 runs: 0 done" in out
    assert "2 were done before, 2 failed" in out
    assert re.search(r"^tljax: 2 of 4 runs failed: lr=1e38,seed=0 \(and 1 more\): ", err, re.M)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("sent", "code"),
    [("SIGKILL", -signal.SIGKILL), pytest.param("SIGTERM", 75, marks=pytest.mark.soak)],
)
def test_killed_in_the_middle_and_continued(sent, code, page, straight, tmp_path):
    workdir = tmp_path / "killed"
    own = ["step", "8", "0", sent, str(tmp_path / "phases")]  # the third step of the second run
    died = subprocess.run(
        [sys.executable, "-m", "tests.soak.victim", *own, "--", *argv(page, workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert died.returncode == code, died.stderr
    assert (workdir / "runs" / NAMES[0] / "result.json").exists()
    assert not (workdir / "runs" / NAMES[1] / "result.json").exists()
    assert not (workdir / "runs" / NAMES[2]).exists()
    assert cli.main(argv(page, workdir)) == 2
    assert same_runs(straight, workdir)


def test_another_config_is_refused_before_anything_runs(page, straight, capsys):
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    assert cli.main(argv(page, straight, "--config.steps=6")) == 2
    assert "in the run lr=0.05,seed=0: " in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


# --- names ------------------------------------------------------------------------------------


def test_names_say_what_a_run_sets_and_are_safe():
    assert run_name({"data": "embedded:digits", "k": None, "lr": 1e-5, "remat": True}) == (
        "data=embedded+digits,k=None,lr=1e-05,remat=True"
    )
    assert run_name({}) == "default"
    strange = [".*/kernel", "../../etc", "a\nb", "=cmd|'/C calc'!A0", "é", "A", "a", "x" * 300, ""]
    strange += ["a:b", "a+b", "a:b:c", "a b", "-", "--", "."]
    names = [run_name({"train": text, "seed": 0}) for text in strange]
    assert len({name.lower() for name in names}) == len(strange)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._,=+~-]{1,120}", name)
        assert name.startswith("train=")
    assert run_name({"crop_area": (0.5, 1.0)}) != run_name({"crop_area": (0.5, 1.0, 1.0)})


def test_a_run_keeps_its_name_when_others_join(page, tmp_path):
    longer = tmp_path / "page.py"
    longer.write_text(PAGE.replace("(0, 1)", "(0, 1, 2)"))
    names = {run.name for run in list_runs(str(page), [])}
    assert names < {run.name for run in list_runs(str(longer), [])}


@pytest.mark.parametrize("text", ["2/2", "-1/2", "0/0", "1", "a/b", "0/2/3", ""])
def test_a_shard_that_is_none(text):
    with pytest.raises(InputError, match=r"e\.g\. 0/2 and 1/2"):
        parse_shard(text)


# --- the choice -------------------------------------------------------------------------------


def made_up(folder, results, **more):
    """Writes runs like a sweep's, from {(lr, seed): (validation, test) or a reason}."""
    for (lr, seed), result in results.items():
        overrides = {"lr": lr, "seed": seed, **more}
        run = folder / run_name(overrides)
        run.mkdir(parents=True)
        (run / "overrides.json").write_text(json.dumps(overrides))
        if isinstance(result, str):
            (run / "failed.json").write_text(json.dumps({"error": result}))
        elif result is not None:
            values = {"val_accuracy": result[0], "test_accuracy": result[1], "plan": {"x": 1}}
            (run / "result.json").write_text(json.dumps(values))
    return folder


def test_the_choice_is_made_on_validation_over_complete_configurations(tmp_path):
    results = {
        **{(0.1, 0): (0.6, 0.9), (0.1, 1): (0.6, 0.9)},  # the best on test
        **{(0.2, 0): (0.8, 0.5), (0.2, 1): (0.6, 0.7)},  # the best on validation
        **{(0.3, 0): (0.9, 0.9), (0.3, 1): "it diverged"},
        **{(0.4, 0): (0.9, 0.9), (0.4, 1): None},  # not finished
    }
    (chosen,) = select(read_runs(made_up(tmp_path, results)))
    assert chosen.overrides == {"lr": 0.2}
    assert chosen.varying == ("lr",)
    assert (chosen.validation.mean, chosen.test.mean) == pytest.approx((0.7, 0.6))
    assert (chosen.among, chosen.incomplete) == (2, 2)


def test_tasks_are_never_compared_and_other_fields_on_demand(tmp_path):
    made_up(tmp_path, {(0.1, 0): (0.9, 0.9), (0.2, 0): (0.8, 0.8)}, data="embedded:digits")
    made_up(tmp_path, {(0.1, 0): (0.3, 0.9), (0.2, 0): (0.4, 0.8)}, data="embedded:textures")
    runs = read_runs(tmp_path)
    assert [(s.place, s.overrides) for s in select(runs)] == [
        ({"data": "embedded:digits"}, {"lr": 0.1}),
        ({"data": "embedded:textures"}, {"lr": 0.2}),
    ]
    assert [s.among for s in select(runs, by=["lr"])] == [1] * 4


def of_score(name, validation, test=None, **overrides):
    """A run that is decided by a metric other than accuracy; None: it failed."""
    summary = {"score": name, f"val_{name}": validation, f"test_{name}": test, "val_accuracy": None}
    failed = validation is None
    return RecordedRun(
        run_name(overrides), overrides, {} if failed else summary, "x" * failed or None
    )


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("r2", {0.1: (-3.0, -2.0), 0.2: (-0.5, -0.4), 0.3: (-1.0, 0.1)}, 0.2),
        ("rmse", {0.1: (3e-14, 2e-14), 0.2: (4e-14, 5e-15), 0.3: (9e-14, 0.0)}, 0.2),
        ("loss", {0.1: (0.9, 0.7), 0.2: (0.8, 0.7), 0.3: (0.1, 2.0)}, 0.2),
        ("mean_average_precision", {0.1: (0.9, 0.7), 0.2: (0.9, 0.8), 0.3: (0.1, 1.0)}, 0.2),
    ],
)
def test_the_choice_is_by_the_score_of_the_runs(name, values, best):
    runs = [
        of_score(name, value, 7.0, lr=lr, seed=seed)
        for lr, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    runs += [of_score(name, value, 7.0, lr=0.4, seed=seed) for seed, value in enumerate((99, None))]
    if name not in ("r2", "mean_average_precision"):
        runs[-2] = of_score(name, -99, 7.0, lr=0.4, seed=0)
    (chosen,) = select(runs)
    assert (chosen.score, chosen.overrides) == (name, {"lr": best})
    assert chosen.validation.mean == pytest.approx(sum(values[best]) / 2)
    assert chosen.test.mean == 7.0
    assert (chosen.among, chosen.incomplete) == (3, 1)
    complete = [run for run in runs if run.overrides["lr"] != 0.4]
    assert best_value(complete, "lr") == best


def test_a_run_that_failed_is_no_good_by_any_score():
    for name in ("r2", "rmse"):
        runs = [of_score(name, None, lr=0.1), of_score(name, -5.0 if name == "r2" else 5.0, lr=0.2)]
        assert best_value(runs, "lr") == 0.2
        assert best_value(runs, "lr", f"val_{name}") == 0.2


def test_runs_with_other_scores_are_chosen_among_by_themselves(tmp_path, capsys):
    runs = [of_score("rmse", 4e5 - lr, 3e5, lr=lr, select_by="rmse") for lr in (1.0, 2.0)]
    runs += [of_score("r2", lr / 9, 0.25, lr=lr, select_by=None) for lr in (1.0, 2.0, 3.0)]
    runs.append(of_score("r2", None, lr=4.0, select_by=None))
    chosen = select(runs)
    assert [(s.score, s.overrides["lr"], s.among, s.incomplete) for s in chosen] == [
        ("r2", 3.0, 3, 1),
        ("rmse", 2.0, 2, 1),
    ]
    write_results(tmp_path / "results.csv", runs, chosen)
    table = list(csv.DictReader((tmp_path / "results.csv").open(newline="")))
    assert [row["score"] for row in table] == ["rmse"] * 2 + ["r2"] * 3 + [""]
    assert [row["selected"] for row in table] == [
        "False",
        "True",
        "False",
        "False",
        "True",
        "False",
    ]
    print_selections(chosen, tmp_path / "results.csv")
    out = capsys.readouterr().out
    assert re.match("chosen on validation *\n", out)
    assert re.search(r"R2 .* lr=3.0 .* 0\.333 .* 0\.250 .* 3 \(1 left out\)", out)
    assert re.search(r"root mean squared error .* lr=2.0, .* 399,998 .* 300,000 ", out)
    print_selections(chosen[:1], tmp_path / "results.csv")
    assert re.match("chosen on validation R2 *\n", capsys.readouterr().out)


def test_losses_of_other_kinds_are_not_compared():
    runs = [
        of_score("loss", value, lr=lr, regression_loss=loss)
        for loss, value in (("l1", 0.2), ("l2", 0.1))
        for lr in (1.0, 2.0)
    ]
    assert [s.place for s in select(runs)] == [{"regression_loss": "l1"}, {"regression_loss": "l2"}]


def test_runs_of_an_earlier_sweep_are_listed_but_not_chosen(page, tmp_path, caplog):
    made_up(tmp_path / "runs", {(0.05, 0): (0.5, 0.5), (0.05, 1): (0.6, 0.6)})
    made_up(tmp_path / "runs", {(0.7, 0): (0.9, 0.9), (0.7, 1): (0.9, 0.9)})
    names = [run.name for run in list_runs(str(page), [])]
    (chosen,) = sweep_runs._write_results(tmp_path, (), names)
    assert (chosen.overrides, chosen.among, chosen.incomplete) == ({"lr": 0.05}, 1, 0)
    assert len((tmp_path / "results.csv").read_text().splitlines()[1:]) == 4
    assert "are left out of the choice: 2;" in caplog.text


def test_text_is_data_in_the_table(tmp_path):
    formula = '=HYPERLINK("http://x")\n,"'
    runs = read_runs(made_up(tmp_path / "runs", {(0.1, 0): formula, (0.2, 0): None}, train="-x"))
    write_results(tmp_path / "results.csv", runs, select(runs))
    (row,) = csv.DictReader((tmp_path / "results.csv").open(newline=""))
    assert row["error"] == "'" + formula.replace("\n", "\\n")
    assert row["train"] == "'-x"
    assert row["lr"] == "0.1"


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ("yield {'lrr': 1}", "did you mean 'lr'?"),
        ("yield {'lr': 'fast'}", "sets lr to 'fast'"),
        ("yield {'lr': None}", "sets lr to None"),
        ("yield {3: 1}", "'3', which is no config field"),
        ("yield 'lr'", "run 1 of sweep() in"),
        ("return", "NoneType"),
        ("yield from []", "yields no runs"),
        ("yield {'lr': 1}; yield {'lr': 1.0}", "repeats an earlier one"),
        ("while True: yield {}", "more than 10,000 runs"),
        ("yield {'lr': 1}; 1 / 0", "ZeroDivisionError"),
        ("yield {'steps': 5}", "sets steps, and so does --config.steps"),
        ("yield {'lr': -1.0}", "in the run lr=-1.0: lr is -1.0"),
        ("yield {'data': 'embedded:digit'}", "'digits'"),
        ("yield {'scenario': 'freeze_first', 'k': 9, 'init_from': 'x'}", "in the run "),
    ],
)
def test_a_slip_in_a_sweep_is_one_sentence_and_nothing_is_written(body, fragment, tmp_path, capsys):
    path = tmp_path / "page.py"
    path.write_text(f"{PAGE[: PAGE.index('def sweep')]}def sweep():\n    {body}\n")
    assert cli.main([*argv(path, tmp_path / "new"), "--config.steps=3"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert fragment in told
    assert not (tmp_path / "new").exists()


def test_numpy_values_are_values(tmp_path):
    path = tmp_path / "page.py"
    body = "import numpy as np\n    for lr in np.logspace(-2, -1, 2): yield {'lr': lr}"
    path.write_text(f"{PAGE[: PAGE.index('def sweep')]}def sweep():\n    {body}\n")
    assert [run.name for run in list_runs(str(path), [])] == ["lr=0.01", "lr=0.1"]


def test_a_rule_that_a_run_sets_leaves_what_the_command_line_sets(tmp_path):
    path = tmp_path / "page.py"
    body = "for rule in (None, 'default'): yield {'hyperrule': rule, 'seed': 1}"
    path.write_text(f"{PAGE[: PAGE.index('def sweep')]}def sweep():\n    {body}\n")
    without, with_rule = list_runs(str(path), ["--config.lr=0.01", "--config.patience", "None"])
    assert without.config.hyperrule_keeps == ()
    assert {"lr", "patience", "seed"} <= {*with_rule.config.hyperrule_keeps}


@pytest.mark.parametrize("name", ["sweep_lr_k"])
def test_the_pages_of_configs_plan_their_runs(name):
    runs = list_runs(str(Path(ROOT) / "configs" / f"{name}.py"), [])
    assert len(runs) > 1


def pilot(scores):
    """Runs at several rates, with the scores of each rate."""
    return [
        RecordedRun(f"{lr}-{seed}", {"lr": lr, "seed": seed}, {} if score is None else {"s": score})
        for lr, of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
    ]


def test_a_rate_is_chosen_by_the_mean_score():
    assert best_value(pilot({0.1: [0.5, 0.7], 0.3: [0.9, 0.5], 1.0: [None, 0.8]}), "lr", "s") == 0.3
    # 0.1 + 0.2 and 0.3 + 0.0 differ only in the last bit; the first of equals wins.
    assert best_value(pilot({1.0: [0.3, 0.0], 2.0: [0.1, 0.2]}), "lr", "s") == 1.0


def test_a_study_runs_at_the_rate_of_its_pilot(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(sweep_runs, "run_sweep", lambda *call: calls.append(call))
    runs = pilot({0.1: [0.5], 0.3: [0.6], 1.0: [0.9]})  # the last is of an earlier pilot
    monkeypatch.setattr(sweep_runs, "read_runs", lambda _: runs)
    monkeypatch.setattr(sweep_runs, "list_runs", lambda *_: runs[:2])
    assert sweep_runs.run_tuned("page.py:arm", tmp_path, ["--config.k=2"], "s") == 0.3
    assert calls == [
        ("page.py:arm/pilot", ["--config.k=2"], tmp_path / "pilot"),
        ("page.py:arm/study", ["--config.k=2", "--config.lr=0.3"], tmp_path / "study"),
    ]
