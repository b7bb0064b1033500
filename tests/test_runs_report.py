"""`tljax report`: the report of runs, also with hostile class names; calibration."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import run
from tests.test_report import Elements
from tljax import experiment
from tljax.analysis.calibration import reliability
from tljax.analysis.repetitions import comparable_config
from tljax.analysis.report.figures import Gallery
from tljax.analysis.report.finished_runs import (
    Choice,
    Goal,
    Setting,
    Target,
    collect_runs,
    read_run,
)
from tljax.analysis.report.labels import TargetNames, differing_fields
from tljax.analysis.report.plans_and_costs import _costs, _forward_flops, _stage_costs
from tljax.analysis.report.predictions import task_part
from tljax.analysis.report.run_report import write_report
from tljax.analysis.report.task_answers import TaskAnswers
from tljax.config import base
from tljax.data import Task
from tljax.runs.answers import Answers

CLASSES = ("<script>alert(1)", "a\nb", "\u202eevil", "$x$ &amp; \"q'")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two seeds of three scenarios on images with hostile names, and one other rate."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"<b>{i}\u202e.png")
    base_fields = {"data": f"folder:{root / 'photos'}", "model": "vit_micro_patch4_32"}
    base_fields |= {"batch_size": 8, "steps": 4, "eval_every": 2, "augment": "none"}
    base_fields |= {"last_group": "block0", "image_size": 16}
    base_fields |= {"accept_source": True}  # of noise nothing is learnt

    def train(name, **fields):
        config = base()
        config.augment = "crop_flip"
        config.update(base_fields | fields)
        experiment.run(config, root / "runs" / name)

    for seed in (0, 1):
        train(f"scratch{seed}", scenario="from_scratch", seed=seed)
        source = str(root / "runs" / "scratch0")
        train(f"tune{seed}", scenario="fine_tune", seed=seed, init_from=source)
        for k in (1, 2):
            train(f"k{k}_{seed}", scenario="freeze_first", k=k, seed=seed, init_from=source)
    train("tune_fast", scenario="fine_tune", init_from=source, lr=0.02)
    shutil.copytree(root / "runs" / "tune0", root / "runs" / "dying")
    (root / "runs" / "dying" / "result.json").unlink()
    return root


def test_the_page_asks_for_nothing_and_obeys_no_name(world, tmp_path, capsys):
    output = tmp_path / "r.html"
    code, out, err = run(capsys, "report", world / "runs", "--output", output)
    assert (code, err) == (0, ""), err
    assert "9 runs" in out
    page = output.read_text(encoding="ascii")
    elements = Elements(page)
    assert not {tag for tag, _ in elements.tags} & {"script", "link", "iframe", "object", "b0"}
    assert "<script" not in page
    assert "\\u202eevil" in elements.text
    assert "a\\nb" in elements.text
    assert "http:" not in page
    assert "https:" not in page
    for tag, attributes in elements.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:image/png").startswith("data:image/")
        if tag in ("svg", "img"):
            assert attributes.get("alt") or attributes.get("aria-label")
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert any(tag == "img" for tag, _ in elements.tags)
    for section in ("three benefits", "Accuracy against k", "Confusion matrix", "Reliability"):
        assert section in elements.text
    assert "Several tasks" not in elements.text
    assert "1 run not done and left out" in elements.text
    pngs = sorted((tmp_path / "r_figures").iterdir())
    assert {path.suffix for path in pngs} == {".png"}
    assert len(pngs) == page.count("<svg")
    assert all(Image.open(path).size[0] > 300 for path in pngs)


def test_validation_decides_and_it_is_said_among_how_many(world):
    runs = collect_runs([world / "runs"])
    (target,) = runs.targets
    chosen = runs.best_by_scenario(target)["fine_tune"]
    rivals = [setting for setting in runs.settings if setting.scenario == "fine_tune"]
    assert chosen.among == len(rivals) == 2
    assert chosen.setting.validation == max(setting.validation for setting in rivals)
    assert sorted(len(setting.runs) for setting in rivals) == [1, 2]


def test_a_lead_is_clear_over_images_too_where_predictions_are_kept(world, tmp_path):
    workdirs = [world / "runs" / f"{name}{seed}" for name in ("scratch", "tune") for seed in (0, 1)]
    write_report(workdirs, tmp_path / "r.html")
    text = Elements((tmp_path / "r.html").read_text()).text
    lead = r"± [\d.]+, ± [\d.]+ with images over (fine tune|from scratch): (clear|within noise) "
    assert re.search(lead, text)
    copies = [shutil.copytree(workdir, tmp_path / workdir.name) for workdir in workdirs]
    (copies[-1] / "predictions.npz").unlink()
    write_report(copies, tmp_path / "r.html")
    text = Elements((tmp_path / "r.html").read_text()).text
    assert "with images over" not in text
    assert re.search(r"over (fine tune|from scratch): (within noise|clear over seeds only)", text)


def test_seeds_whose_trials_settled_other_values_are_one_setting(world, tmp_path):
    for seed, fields in ((0, {"lr": 0.1}), (1, {"lr": 0.1, "steps": 1, "warmup": 0})):
        shutil.copytree(world / "runs" / f"tune{seed}", tmp_path / f"tune{seed}")
        file = tmp_path / f"tune{seed}" / "config.json"
        config = json.loads(file.read_text())
        asked = [f"{name}={json.dumps(config[name])}" for name in fields]
        tried = {"tried": [f"lr=0.1: accuracy 0.{seed}"], "asked": asked}
        file.write_text(json.dumps(config | fields | tried))
    (setting,) = collect_runs([tmp_path]).settings
    assert sorted(setting.runs) == [0, 1]
    (tmp_path / "fast").symlink_to(world / "runs" / "tune_fast")
    settings = collect_runs([tmp_path, tmp_path / "fast"]).settings
    assert sorted(differing_fields(one, settings) for one in settings) == [
        "<bdi>lr=0.01</bdi>",
        "<bdi>lr=0.02</bdi>",
    ]


def test_folds_that_other_seeds_have_drawn_are_other_images(world, tmp_path):
    def read(**fields):
        for seed in (0, 1):
            workdir = tmp_path / f"tune{seed}"
            shutil.copytree(world / "runs" / workdir.name, workdir, dirs_exist_ok=True)
            config = json.loads((workdir / "config.json").read_text())
            (workdir / "config.json").write_text(json.dumps(config | fields))
        return collect_runs([tmp_path])

    own = read(folds=3, fold=1)
    assert [sorted(setting.runs) for setting in own.settings] == [[0], [1]]
    assert len(own.goals) == 2
    (shared,) = read(folds=3, fold=1, data_seed=0).settings
    assert sorted(shared.runs) == [0, 1]
    assert shared.target.goal == own.goals[0]


def test_repetitions_are_compared_by_what_was_asked_for():
    settled = {"lr": 0.1, "wise_ft_alpha": 0.0, "augment": "none", "keep": 2, "seed": 3}
    asked = ["lr=0.02", "wise_ft_alpha=null", 'augment="crop"']
    found = comparable_config({**settled, "tried": ["lr=0.1: ..."], "asked": asked})
    assert found == {"lr": 0.02, "wise_ft_alpha": None, "augment": "crop"}
    assert comparable_config({"lr": 0.02, "seed": 0, "asked": None}) == {"lr": 0.02}


def test_runs_without_validation_images_have_a_page(world, tmp_path, capsys):
    """By default few images all train: there is no curve then, and no choice on validation.

    One of these runs has the whole network, and so a table of plans of its own.
    """
    config = base()
    config.update({"data": f"folder:{world / 'photos'}", "model": "vit_micro_patch4_32"})
    config.update({"batch_size": 8, "steps": 2, "last_group": "block0", "val_fraction": 0.0})
    config.accept_source = True
    for scenario in ("from_scratch", "fine_tune"):
        config.scenario = scenario
        config.init_from = str(world / "runs" / "scratch0") if scenario == "fine_tune" else None
        config.last_group = "block0" if scenario == "fine_tune" else None
        experiment.run(config, tmp_path / scenario, progress=False)
    output = tmp_path / "r.html"
    code, _, _ = run(capsys, "report", tmp_path, "--output", output)
    assert code == 0
    text = " ".join(Elements(output.read_text()).text.split())
    assert "of 2 settings, of which some have no validation images" in text
    plans = text.partition("The plans")[2].partition("Cost")[0]
    whole, cut = sorted(plans.split("vit_micro_patch4_32")[1:], key=len, reverse=True)
    assert "up to block0" in cut
    assert "up to" not in whole
    assert "block1" in whole
    assert "block1" not in cut


def test_the_same_workdir_given_twice_counts_once(world, tmp_path):
    output, figures = tmp_path / "r.html", tmp_path / "png"
    one = world / "runs" / "tune0"
    assert write_report([one, world / "runs" / "tune1", one], output, figures) == 2
    text = Elements(output.read_text()).text
    assert "Accuracy against k" not in text
    assert "against from scratch :" not in text
    first = output.read_bytes()
    assert write_report([one, world / "runs" / "tune1", one], output, figures) == 2
    assert output.read_bytes() == first


def test_a_run_with_the_config_and_seed_of_another_is_left_out_with_a_warning(
    world, tmp_path, caplog
):
    for name in ("a", "b"):
        shutil.copytree(world / "runs" / "tune0", tmp_path / name)
    (one,) = collect_runs([tmp_path]).runs
    assert one.workdir == tmp_path / "a"
    assert (
        f"left out, since another run has the same config and seed: '{tmp_path}/b'" in caplog.text
    )


def test_images_that_are_gone_leave_the_rest_of_the_page(world, tmp_path):
    away = (world / "photos").rename(world / "elsewhere")
    try:
        write_report([world / "runs" / "tune0"], tmp_path / "r.html")
    finally:
        away.rename(world / "photos")
    elements = Elements((tmp_path / "r.html").read_text())
    assert "No pictures:" in elements.text
    assert not any(tag == "img" for tag, _ in elements.tags)


def test_the_cost_of_a_run_in_stages_is_that_of_all_of_them(world, tmp_path):
    """A quarter of the images are for a probe, which needs no gradient below the head."""
    config = experiment.read_config(world / "runs" / "tune0")
    config.update({"stages": "lp_ft", "probe_share": 0.25})
    experiment.run(config, tmp_path / "run", progress=False)
    (setting,) = collect_runs([tmp_path]).settings
    forward, products = _forward_flops(setting)
    (probed, probe), (tuned, tune) = _stage_costs(setting, forward, products)
    assert (probed, tuned) == (8, 24)  # batches of 8, four steps
    assert probe == sum(forward) + 2 * forward[-1]
    assert tune == 3 * sum(forward)
    assert _costs(setting)[4] == f"{(8 * probe + 24 * tune) / 1e9:,.1f}"


def test_a_thousand_classes_are_summed_up(world):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(1000), 3).astype(np.int32)
    predicted = np.where(rng.random(3000) < 0.6, labels, rng.integers(0, 1000, 3000))
    answers = Answers(
        np.arange(3000, dtype=np.int32),
        labels,
        predicted.astype(np.int32),
        np.zeros((3000, 1000), np.float16),
        rng.random(3000).astype(np.float32),
    )
    some = Setting({0: read_run(world / "runs" / "tune0")})
    task = Task("imagenet", tuple(f"class {i}" for i in range(1000)))
    task_answers = TaskAnswers(task, Choice(some, 1), {0: answers})
    part = task_part(
        task_answers, [some], TargetNames([Target(Goal("imagenet"), "m", 1)]), Gallery()
    )
    assert len(part) < 100_000
    assert "the 20 worst of 1,000" in part
    assert "Most frequent confusions" in part
    assert "Confusion matrix" not in part


def test_calibration_errors_worked_out_by_hand():
    # two answers in (14/15, 1], one of them right; two in (7/15, 8/15], both right
    confidences = np.array([1.0, 0.96, 0.5, 0.5])
    right = np.array([True, False, True, True])
    expected = 0.5 * abs(0.5 - 0.98) + 0.5 * abs(1 - 0.5)
    assert reliability(confidences, right).ece == pytest.approx(expected)
    edges = reliability(np.array([0.2, 0.2000001, 0.0, 1.0]), np.ones(4, bool), bins=5)
    assert edges.counts.tolist() == [2, 1, 0, 0, 1]


def test_a_network_that_knows_how_sure_to_be_has_a_small_error():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.2, 1, 50_000)
    assert reliability(confidences, rng.random(50_000) < confidences).ece < 0.01
    assert reliability(confidences, rng.random(50_000) < confidences**2).ece > 0.05


def test_a_result_that_is_damaged_is_named(world, tmp_path, capsys):
    workdir = shutil.copytree(world / "runs" / "tune0", tmp_path / "run")
    result = json.loads((workdir / "result.json").read_text())
    output = tmp_path / "r.html"
    for wrong in ({"test_accuracy": None}, {"scenario": 5}, {"plan": []}):
        (workdir / "result.json").write_text(json.dumps(result | wrong))
        code, _, err = run(capsys, "report", workdir, "--output", output)
        assert code == 2
        assert re.search(r"cannot read \S+result.json", err)
    (workdir / "result.json").write_text(json.dumps(result))
    (workdir / "predictions.npz").write_bytes(b"PK not an archive")
    code, _, err = run(capsys, "report", workdir, "--output", output)
    assert code == 2
    assert "predictions.npz" in err
    assert not output.exists()
    assert not (tmp_path / "r_figures").exists()
