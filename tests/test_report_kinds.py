"""`tljax report` on several labels an image and on numbers, alone and beside classes."""

import csv
import html
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sklearn_metrics

from tests.test_cli import run
from tests.test_report import Elements, make_run
from tljax import experiment
from tljax.analysis.report.benefit_text import benefit_row, benefit_sentences
from tljax.analysis.report.cells import MeanCurve, mean_curve
from tljax.analysis.report.curve_figure import paint_curves
from tljax.analysis.report.figures import Gallery
from tljax.analysis.report.finished_runs import Choice, Goal, Setting, Target, collect_runs
from tljax.analysis.report.formatting import percent
from tljax.analysis.report.labels import TargetNames
from tljax.analysis.report.measures import Measure
from tljax.analysis.report.outputs.multi_label import multi_label_part
from tljax.analysis.report.outputs.output_answers import OutputAnswers, output_answers
from tljax.analysis.report.outputs.regression import regression_part
from tljax.analysis.report.run_report import write_report
from tljax.analysis.statistics import Interval, mean_interval
from tljax.config import base
from tljax.data import Task
from tljax.errors import InputError, printable
from tljax.runs.answers import Outputs, read_answers
from tljax.runs.scores import figure, three_digits

LABELS = ("<b>bright", "striped", "rare\u202e")
NUMBERS = ("brightness", "grams")
IMAGES = 96
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def write_images(folder):
    """Images whose brightness and stripes are the labels, with a table of all kinds of labels."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for i in range(IMAGES):
        level, striped = int(rng.integers(40, 216)), int(rng.integers(2))
        pixels = np.full((16, 16, 3), level) + rng.integers(-20, 20, (16, 16, 3))
        pixels[::2] += 40 * striped * (1 if level < 128 else -1)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(
            {
                "path": f"{i}.png",
                "split": ("train", "train", "val", "test")[i % 4],
                "label": "day" if level >= 128 else "night",
                **dict(zip(LABELS, (int(level >= 128), striped, int(i % 7 == 0)), strict=True)),
                **dict(zip(NUMBERS, (level, 1e4 * level + 3e5 * striped), strict=True)),
            }
        )
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return f"csv:{folder / 'table.csv'}?"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """From-scratch runs of two seeds and a fine-tuned one on labels and on numbers; others."""
    root = tmp_path_factory.mktemp("kinds")
    spec = write_images(root / "images")
    fields = {"model": "vit_micro_patch4_32", "last_group": "block0", "image_size": 16}
    fields |= {"batch_size": 16, "steps": 4, "eval_every": 2, "augment": "none", "lr": 0.02}
    fields |= {"accept_source": True}

    def train(name, choice, **more):
        config = base()
        config.update(fields | {"data": spec + choice} | more)
        experiment.run(config, root / "runs" / name, progress=False)

    kinds = {"labels": f"labels={'+'.join(LABELS)}", "numbers": f"numbers={'+'.join(NUMBERS)}"}
    for name, choice in kinds.items():
        for seed in (0, 1):
            train(f"{name}/scratch{seed}", choice, scenario="from_scratch", seed=seed)
        source = str(root / "runs" / name / "scratch0")
        train(f"{name}/tune0", choice, scenario="fine_tune", init_from=source)
    train("numbers/rmse", kinds["numbers"], scenario="from_scratch", select_by="rmse")
    train("classes/f1", "label=label", scenario="from_scratch", select_by="macro_f1")
    return root


def page_of(folder, tmp_path, capsys):
    output = tmp_path / "r.html"
    code, _, err = run(capsys, "report", folder, "--output", output)
    assert (code, err) == (0, ""), err
    return output.read_text(encoding="ascii")


def result_of(world, name):
    return json.loads((world / "runs" / name / "result.json").read_text())


def test_a_page_of_several_labels(world, tmp_path, capsys):
    page = page_of(world / "runs" / "labels", tmp_path, capsys)
    elements = Elements(page)
    text = elements.text
    assert "Test mean average precision by scenario and size" in text
    results = [result_of(world, f"labels/scratch{seed}") for seed in (0, 1)]
    for field in ("test_mean_average_precision",):
        mean = mean_interval([result[field] for result in results])
        assert f"{100 * mean.mean:.1f} ± {100 * mean.half_width:.1f}" in text
    naive = results[0]["naive_mean_average_precision"]
    assert f" {100 * naive:.1f} " in text
    for section in ("Precision against recall", "By label", "Surest wrong labels", "The plans"):
        assert section in text
    assert "Learning curves and the three benefits" in text
    for other in ("Confusion matrix", "Reliability", "Accuracy by class", "Confidence is"):
        assert other not in text
    assert "the one with the highest F1 on validation images" in text
    assert "<b>bright" not in page, "a label is text"
    assert "rare\\u202e" in text
    assert not re.search(r"\bnan\b", text)
    pngs = list((tmp_path / "r_figures").iterdir())
    assert len(pngs) == page.count("<svg")
    assert any(path.name.startswith("precision_recall") for path in pngs)
    assert any(tag == "img" for tag, _ in elements.tags)
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_table_by_label_holds_what_the_result_holds(world, tmp_path, capsys):
    one = world / "runs" / "labels" / "tune0"
    page = page_of(one, tmp_path, capsys)
    result = result_of(world, "labels/tune0")
    answers = read_answers(one)
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', page, re.DOTALL)
    for column, name in enumerate(LABELS):
        shown = html.escape(printable(name))
        (row,) = [row for row in rows if f"<bdi>{shown}</bdi>" in row]
        cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row)]
        has = answers.labels[:, column] > 0
        said = answers.outputs[:, column] >= np.float32(result["thresholds"][column])
        by_class = {metric: result["test_by_class"][metric][name] for metric in ("f1",)}
        precision = "&#8211;"
        if said.any():
            precision = f"{100 * sklearn_metrics.precision_score(has, said):.1f}"
        assert cells == [
            str(has.sum()),
            f"{100 * result['test_by_class']['average_precision'][name]:.1f}",
            f"{100 * has.mean():.1f}",
            f"{100 * by_class['f1']:.1f}",
            precision,
            f"{100 * sklearn_metrics.recall_score(has, said):.1f}",
            f"{result['thresholds'][column]:.3f}",
        ]


def test_a_page_of_numbers(world, tmp_path, capsys):
    folder = tmp_path / "runs"
    for name in ("scratch0", "scratch1", "tune0"):
        shutil.copytree(world / "runs" / "numbers" / name, folder / name)
    page = page_of(folder, tmp_path, capsys)
    text = Elements(page).text
    assert "Test R² by scenario and size" in text
    results = [result_of(world, f"numbers/scratch{seed}") for seed in (0, 1)]
    mean = mean_interval([result["test_r2"] for result in results])
    assert f"{mean.mean:.3f} ± {mean.half_width:.3f}".replace("-", MINUS) in text
    tuned = result_of(world, "numbers/tune0")
    low, high = tuned["test_intervals"]["r2"]
    assert f"{low:.3f} to {high:.3f} over test images".replace("-", MINUS) in text
    assert "points" not in text, "R² is not in per cent"
    for section in ("predicted against true", f"errors, predicted {MINUS} true", "By number"):
        assert section in text
    assert "Largest errors" in text
    assert "standard deviations off" in text
    for other in ("Confusion matrix", "Reliability", "Precision against recall", "Confidence is"):
        assert other not in text
    assert not re.search(r"\bnan\b", text)
    assert {path.name.split("_")[0] for path in (tmp_path / "r_figures").iterdir()} == {
        *("r2", "curves", "predicted", "errors")
    }


def test_the_table_by_number_has_intervals_and_the_baseline(world, tmp_path, capsys):
    one = world / "runs" / "numbers" / "tune0"
    page = page_of(one, tmp_path, capsys)
    answers = read_answers(one)
    text = Elements(page).text
    (task,) = experiment.tasks_of(one)
    for column, name in enumerate(NUMBERS):
        true, predicted = answers.labels[:, column], answers.outputs[:, column]
        naive = np.full_like(true, task.scale[0][column])
        (row,) = re.findall(rf'<tr><th scope="row"><bdi>{name}</bdi></th>(.*?)</tr>', page)
        cells = [Elements(cell).text for cell in row.split("</td>")][:3]
        for cell, metric in zip(
            cells,
            (
                sklearn_metrics.r2_score,
                sklearn_metrics.root_mean_squared_error,
                sklearn_metrics.mean_absolute_error,
            ),
            strict=True,
        ):
            numbers = [
                float(n) for n in re.findall(r"-?[\d.]+", cell.replace(MINUS, "-").replace(",", ""))
            ]
            found, low, high, constant = numbers
            assert low < found < high
            assert found == pytest.approx(metric(true, predicted), rel=0.01, abs=0.001)
            assert constant == pytest.approx(metric(true, naive), rel=0.01, abs=0.001)
    assert "in brackets the 95 % interval over test images" in text


def test_scores_that_cannot_be_compared_are_not(world, tmp_path, capsys):
    runs = collect_runs([world / "runs"])
    goals = {(goal.kind, goal.score) for goal in runs.goals}
    assert goals == {
        ("classes", "macro_f1"),
        ("multi_label", "mean_average_precision"),
        ("regression", "r2"),
        ("regression", "rmse"),
    }
    text = Elements(page_of(world / "runs", tmp_path, capsys)).text
    for words in ("macro F1", "mean average precision", "R²", "root mean squared error"):
        assert f"Test {words} by scenario and size" in text
    assert "settings with other scores are not compared" in text
    f1 = result_of(world, "classes/f1")
    assert f1["naive_macro_f1"] < f1["naive_accuracy"]
    assert (
        f"48 images {100 * f1['test_macro_f1']:.1f} 1 seed {100 * f1['naive_macro_f1']:.1f}" in text
    )
    assert "table.csv?label=label by macro F1" in text
    assert "table.csv?numbers=brightness+grams by R²" in text
    for section in ("Confusion matrix", "Precision against recall", "By number"):
        assert section in text
    rmse = result_of(world, "numbers/rmse")["test_rmse"]
    assert f"{rmse:,.0f} root mean squared error" in text
    assert f"{100 * result_of(world, 'classes/f1')['test_macro_f1']:.1f} % macro F1" in text


def test_of_errors_the_lowest_is_chosen(world):
    read = collect_runs([world / "runs" / "numbers"])
    good = next(s for s in read.settings if s.measure.name == "rmse")

    def with_validation(value):
        run = good.first
        summary = {**run.summary, "val_rmse": value}
        return Setting({0: type(run)(run.workdir, run.config, summary, run.history, run.tasks)})

    settings = [with_validation(value) for value in (3.0, 1.0, 2.0, None)]
    assert max(settings, key=lambda s: s.validation) is settings[1]
    assert min(settings, key=lambda s: s.validation) is settings[3]


def test_a_sweep_chooses_the_least_error(world, tmp_path, capsys):
    page = tmp_path / "page.py"
    page.write_text(f"""
from tljax.config import base

def get_config(arg=None):
    config = base()
    config.update({{
        "data": {collect_runs([world / "runs" / "numbers"]).goals[0].data!r},
        "model": "vit_micro_patch4_32", "last_group": "block0", "image_size": 16,
        "scenario": "from_scratch", "augment": "none", "steps": 2, "batch_size": 16,
    }})
    return config

def sweep():
    for lr in (0.0001, 0.02):
        yield {{"select_by": "loss", "lr": lr}}
""")
    code, out, err = run(capsys, "sweep", "--config", page, "--workdir", tmp_path / "sweep")
    assert code == 0, err
    assert "chosen on validation loss" in out
    with (tmp_path / "sweep" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows] == ["loss", "loss"]
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert [row["selected"] for row in rows] == [str(row is best) for row in rows]
    text = Elements(page_of(tmp_path / "sweep", tmp_path, capsys)).text
    assert "Test loss by scenario and size" in text
    assert "the one with the lowest mean validation loss is shown" in text
    assert "best of 2 on validation" in text
    assert "Learning curves and" not in text, "of losses the three benefits are not told"
    assert "Learning curves Line" in text


def made_up(world, name, outputs, labels, names, **summary):
    """The answers of a run, with other images and labels than it had."""
    (setting,) = collect_runs([world / "runs" / name]).settings
    run = setting.first
    task = Task("made", names, run.tasks[0].kind, None)
    other = type(run)(run.workdir, run.config, {**run.summary, **summary}, run.history, (task,))
    given = Outputs(np.arange(len(labels), dtype=np.int32), labels, outputs)
    choice = Choice(Setting({0: other}), 1)
    return OutputAnswers(choice, {0: given}), TargetNames([choice.setting.target])


def test_of_many_labels_the_worst_are_shown(world):
    rng = np.random.default_rng(0)
    count = 300
    labels = (rng.random((400, count)) < 0.3).astype(np.float32)
    labels[:, 7] = 0
    noise = np.linspace(0, 3, count)
    logits = 2 * labels - 1 + noise * rng.normal(size=labels.shape)
    outputs = (1 / (1 + np.exp(-logits))).astype(np.float32)
    names = tuple(f"label {i}" for i in range(count))
    thresholds = [0.5] * count
    made = made_up(world, "labels/tune0", outputs, labels, names, thresholds=thresholds)
    part = multi_label_part(made[0], [], made[1], Gallery())
    text = Elements(part).text
    assert "By label, the 20 worst of 299" in text
    assert "The 10 worst of 299." in text
    assert "1 label without a test image: label 7 ." in text
    precisions = [
        sklearn_metrics.average_precision_score(labels[:, i], outputs[:, i]) if i != 7 else 2.0
        for i in range(count)
    ]
    worst = np.argsort(precisions)[0]
    assert f"label {worst} {percent(precisions[worst])}".replace("&#160;", " ") in text
    assert len(part) < 300_000


def test_of_many_numbers_the_worst_are_shown(world):
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(1000, 30)).astype(np.float32)
    labels[:, 4] = 2.0  # the same for all images
    outputs = labels + np.linspace(0.01, 1, 30).astype(np.float32) * rng.normal(size=labels.shape)
    names = tuple(f"number {i}" for i in range(30))
    answers, target_names = made_up(
        world, "numbers/tune0", outputs.astype(np.float32), labels, names
    )
    part = regression_part(answers, [], target_names, Gallery())
    text = Elements(part).text
    assert "The 4 worst of 30 numbers" in text
    assert "By number, the 20 worst of 30" in text
    assert "600 of 1,000 answers are drawn" in text
    assert f"naive {DASH}" in text, "the scale of the training images is not known"
    assert len(part) < 1_000_000
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_a_network_that_says_the_same_has_a_page(world):
    labels = np.zeros((20, 3), np.float32)
    labels[:5] = 1
    same = np.full((20, 3), 0.25, np.float32)
    made = made_up(world, "labels/tune0", same, labels, LABELS, thresholds=[0.5] * 3)
    text = Elements(multi_label_part(made[0], [], made[1], Gallery())).text
    assert f"5 25.0 25.0 0.0 {DASH} 0.0 0.500" in text
    numbers = np.full((20, 2), 3.0, np.float32)
    made = made_up(world, "numbers/tune0", numbers, numbers, NUMBERS)
    text = Elements(regression_part(made[0], [], made[1], Gallery())).text
    assert "mean 0, standard deviation 0" in text
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_answers_that_do_not_fit_the_run_are_named(world):
    (setting,) = collect_runs([world / "runs" / "labels" / "tune0"]).settings
    run = setting.first
    short = type(run)(
        run.workdir, run.config, {**run.summary, "thresholds": [0.5]}, run.history, run.tasks
    )
    with pytest.raises(InputError, match="do not fit the 3 labels"):
        output_answers(Choice(Setting({0: short}), 1))


def test_a_result_without_the_fields_of_its_kind_is_named(world, tmp_path, capsys):
    workdir = shutil.copytree(world / "runs" / "numbers" / "rmse", tmp_path / "run")
    result = json.loads((workdir / "result.json").read_text())
    for wrong in ({"test_rmse": None}, {"kind": "words"}, {"score": "r3"}, {"val_rmse": "1"}):
        (workdir / "result.json").write_text(json.dumps(result | wrong))
        code, _, err = run(capsys, "report", workdir, "--output", tmp_path / "r.html")
        assert code == 2
        assert re.search(r"cannot read \S+result.json", err)
    assert not (tmp_path / "r.html").exists()


def test_the_same_runs_make_the_same_bytes(world, tmp_path):
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    runs = [world / "runs" / "labels" / "tune0", world / "runs" / "numbers" / "rmse"]
    for output in (first, second):
        write_report(runs, output)
    assert first.read_text().replace("a.html", "b.html") == second.read_text()


@pytest.mark.parametrize(
    ("name", "interval", "expected"),
    [
        ("accuracy", Interval(0.9123, 0.9, 0.9246), "91.2 ± 1.2"),
        ("r2", Interval(-0.0416, -0.05, -0.0332), f"{MINUS}0.042 ± 0.008"),
        ("rmse", Interval(12345.6, 12000.0, 12691.2), "12,346 ± 346"),
        ("r2", Interval(-0.0002, float("nan"), float("nan")), "0.000"),
        ("mae", Interval(0.001234, 0.001, 0.001468), "0.00123 ± 0.00023"),
        ("rmse", Interval(3.2e-12, float("nan"), float("nan")), f"3.20e{MINUS}12"),
        ("loss", Interval(0.0, 0.0, 0.0), "0 ± 0"),
        ("rmse", Interval(0.0, -0.4, 0.4), "0.000 ± 0.400"),
    ],
)
def test_a_number_has_the_digits_that_tell(name, interval, expected):
    assert Elements(Measure(name).interval(interval)).text == expected or (
        Elements(f"<p>{Measure(name).interval(interval)}").text == expected
    )


@pytest.mark.parametrize(
    ("name", "value", "size", "expected"),
    [
        ("r2", 0.84812, None, "0.8481"),
        ("r2", -0.00001, None, "0.0000"),
        ("rmse", 0.38921, None, "0.3892"),
        ("mae", 123456.7, None, "123,457"),
        ("rmse", 3.21e-12, None, "3.21e-12"),
        ("rmse", 0.5, 123.4, "0.5"),
        ("mae", 0.0, None, "0"),
    ],
)
def test_errors_in_units_have_four_digits_and_other_metrics_four_decimals(
    name, value, size, expected
):
    assert figure(value, name, size) == expected
    assert figure(0.12345, "r2", digits=3) == "0.123"
    assert figure(1.2345e-5, "mae", digits=3) == "0.0000123"
    assert three_digits(-0.0001, 0.1) == "0.000", "no minus before a rounded zero"


def test_of_r2_below_0_there_is_no_threshold():
    """90 % of what is below 0 is above it."""
    runs = {
        "from_scratch": {0: make_run("from_scratch", curve=(-4.0, -0.5, -0.2))},
        "fine_tune": {0: make_run("fine_tune", curve=(-4.0, 0.1, 0.5))},
    }
    curves = {scenario: mean_curve(by_seed.values()) for scenario, by_seed in runs.items()}
    start, slope, end = benefit_sentences(runs, "fine_tune", curves, Measure("r2"))
    assert "+0.600 after 100 images" in start
    assert slope == "<b>no slope to compare</b>: from scratch ends at &#8722;0.200"
    assert "+0.700 (one seed)" in end
    row = benefit_row(runs, "fine_tune", "x", Measure("r2"))
    assert row[1:] == ["+0.600", "undetermined in 1 of 1 seed", "+0.700"]
    drawing = Gallery().draw(
        "x", "x", lambda axes: paint_curves(axes, Measure("r2"), curves, "fine_tune")
    )
    assert "(cut at \N{MINUS SIGN}1)" in drawing


def test_a_curve_of_one_evaluation_is_drawn_though_its_mean_is_rounded():
    """The mean of equal scores may lie an ulp outside of the lowest and the highest."""
    above = np.nextafter(0.6, 1)
    curve = MeanCurve([(50, 0.6)], [above], [above])
    Gallery().draw(
        "x", "x", lambda axes: paint_curves(axes, Measure("accuracy"), {"fine_tune": curve}, None)
    )


def test_goals_name_their_score_only_where_it_is_needed():
    goals = Goal("csv:/a/t.csv"), Goal("csv:/a/t.csv", "classes", "macro_f1")
    both = TargetNames([Target(goal, "m", 1) for goal in goals])
    assert [both.goal(goal) for goal in goals] == ["t.csv by accuracy", "t.csv by macro F1"]
    assert TargetNames([Target(goals[0], "m", 1)]).goal(goals[0]) == "t.csv"
