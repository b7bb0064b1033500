"""The report: which scenario wins, and properties of its HTML page."""

import dataclasses
import html
import itertools
import re
from html.parser import HTMLParser

import pytest

from tljax.analysis.benefits import asymptote
from tljax.analysis.report.demo_grid import DemoRun, cell_table, finding
from tljax.analysis.report.demo_report import write_report
from tljax.transfer.scenarios import SCENARIOS

PRESCRIBED = {
    ("digits", "small"): "feature_extraction",
    ("digits", "large"): "fine_tune",
    ("textures", "small"): "freeze_first",
    ("textures", "large"): "from_scratch",
}
SIMILARITY = {"digits": "similar", "textures": "dissimilar"}
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
HOSTILE = "</style><script src='https://example.org/x.js'>&\"{0}"


def make_run(scenario, seed=0, target="digits", size="small", test=0.5, curve=(0.1, 0.4, 0.5)):
    history = [
        {"event": "val", "step": step, "examples": 100 * step, "accuracy": accuracy, "loss": 1.0}
        for step, accuracy in enumerate(curve)
    ]
    history.insert(1, {"event": "train", "step": 1, "examples": 100, "accuracy": 1, "loss": 1.0})
    summary = {
        "test_accuracy": test,
        "naive_accuracy": 0.0987,
        "trainable_parameters": 1_290,
        "total_parameters": 12_900,
        "wall_seconds": 12.3,
        "train_size": 40,
        "val_size": 10,
        "test_size": 360,
        "num_classes": 10,
        "best_step": 2,
        "steps": 2,
        "versions": {"tljax": "0.1.0"},
        "devices": ["cpu"],
    }
    return DemoRun(target, size, scenario, seed, summary, history)


def make_grid(seeds=3):
    """Runs of the whole 2x2 grid whose test accuracies are all different."""
    counter = itertools.count()
    return [
        make_run(scenario, seed, target, size, test=0.3 + 0.01234 * next(counter))
        for target, size in PRESCRIBED
        for scenario in SCENARIOS
        for seed in range(seeds)
    ]


def make_page(tmp_path, runs, source=None, **kwargs):
    path = tmp_path / "report.html"
    arguments = {
        "prescribed": PRESCRIBED,
        "similarity": SIMILARITY,
        "command": "tljax demo --workdir W",
    } | kwargs
    source = source or make_run("from_scratch", target="glyphs", size="large", test=0.9321)
    write_report(path, source, runs, **arguments)
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"
    return path.read_text(encoding="ascii")


class Elements(HTMLParser):
    """Parses a page into (tag, attributes) pairs, and its text outside style sheets."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())  # also turns no-break spaces into spaces

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] != "style":
            self.words.append(data)


# ----------------------------------------------------------------------------- winner and noise


def cell(accuracies, prescribed="fine_tune"):
    runs = [
        make_run(scenario, seed, test=test)
        for scenario, tests in accuracies.items()
        for seed, test in enumerate(tests)
    ]
    (row,) = cell_table(runs, {("digits", "small"): prescribed})
    return row


def test_a_steady_lead_is_clear_however_much_seeds_differ():
    row = cell({"from_scratch": [0.5, 0.7, 0.9], "fine_tune": [0.55, 0.75, 0.951]})
    assert (row.winner, row.runner_up) == ("fine_tune", "from_scratch")
    assert row.verdict == "clear over seeds only", "the demo keeps no predictions"
    assert "intervals are over seeds only" in finding([row])
    assert row.best == ["fine_tune"]


def test_a_lead_that_seeds_disagree_on_is_noise():
    row = cell({"from_scratch": [0.5, 0.9, 0.5], "fine_tune": [0.9, 0.5, 0.6]})
    assert (row.winner, row.verdict) == ("fine_tune", "within noise")


def test_equal_means_are_both_best():
    row = cell({"from_scratch": [0.1, 0.2, 0.6], "fine_tune": [0.6, 0.1, 0.2]})
    assert row.best == ["from_scratch", "fine_tune"]
    assert row.verdict == "within noise"
    assert "highest mean test accuracy in 1 of 1 target " in finding([row])


def test_shortfall_of_the_textbook():
    row = cell({"from_scratch": [0.5, 0.51], "fine_tune": [0.9, 0.91]}, prescribed="from_scratch")
    assert row.shortfall.mean == pytest.approx(0.4)
    assert row.shortfall.over_seeds.half_width == pytest.approx(0)
    assert "in 0 of 1 target and was clearly behind the best in 1;" in finding([row])


# ----------------------------------------------------------------------------------- the page


def test_page_asks_the_network_for_nothing(tmp_path):
    page = make_page(tmp_path, make_grid())
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    elements = Elements(page)
    assert not {tag for tag, _ in elements.tags} & {"script", "link", "img", "iframe", "object"}
    for _, attributes in elements.tags:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page))


def test_page_is_small_and_its_ids_are_unique_and_found(tmp_path):
    page = make_page(tmp_path, make_grid())
    assert len(page) < 1_000_000
    ids = [attributes["id"] for _, attributes in Elements(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', page)) <= set(ids)


def test_every_scenario_and_number_is_there(tmp_path):
    runs = make_grid()
    text = Elements(make_page(tmp_path, runs)).text
    for row in cell_table(runs, PRESCRIBED):
        assert f"{row.target}, {row.size}" in text
        for score in row.scores.values():
            assert f"{100 * score.mean:.1f} ± {100 * score.half_width:.1f}" in text
    for scenario in SCENARIOS:
        assert scenario.replace("_", " ") in text
    for expected in ("9.9", "93.2 %", "1,290 (10.0 %)", "12.3", "tljax demo --workdir W"):
        assert expected in text
    assert finding(cell_table(runs, PRESCRIBED)) in text


def test_a_curve_ends_with_the_trained_weights_and_not_with_those_chosen_on_the_line():
    trained = make_run("fine_tune", curve=(0.1, 0.4, 0.5))
    chosen = {**trained.history[-1], "step": 3, "accuracy": 0.9, "chosen": True}
    on_line = dataclasses.replace(trained, history=[*trained.history, chosen])
    assert on_line.curve == trained.curve == [(0, 0.1), (100, 0.4), (200, 0.5)]
    assert asymptote(on_line.curve) == 0.5


def test_benefits_carry_their_sign(tmp_path):
    runs = [
        make_run("from_scratch", curve=(0.1, 0.6, 0.7, 0.8, 0.8, 0.8)),
        make_run("fine_tune", curve=(0.1, 0.5, 0.5, 0.5, 0.5, 0.5)),
    ]
    prescribed = {("digits", "small"): "fine_tune"}
    text = Elements(make_page(tmp_path, runs, prescribed=prescribed)).text
    assert f"lower start : {MINUS}10.0 points after 100 images" in text
    assert "lower slope : it never reaches 72.0 %, from scratch after 300 images" in text
    assert f"lower asymptote : {MINUS}30.0 points" in text
    assert "at most 0.60\N{MULTIPLICATION SIGN} (a bound in 1 of 1 seed)" in text


@pytest.mark.parametrize(
    ("transfer", "scratch", "sentence"),
    [
        (  # at 80 % of .9 only after it was seen at .5
            (0.1, 0.5, 0.75, 0.8),
            (0.1, 0.2, 0.5, 0.8),
            "higher slope : 72.0 % on the mean curves after 200 images, from scratch after 300"
            f" (1.5{TIMES})",
        ),
        (
            (0.1, 0.75, 0.8, 0.8),
            (0.1, 0.2, 0.5, 0.8),
            f"after at most 100 images, from scratch after 300 (at least 3.0{TIMES})",
        ),
        (
            (0.8, 0.75, 0.8, 0.8),
            (0.1, 0.2, 0.5, 0.8),
            f"on the mean curves before it trains, from scratch after 300 (at least 3.0{TIMES})",
        ),
        (
            (0.1, 0.2, 0.3, 0.75),
            (0.1, 0.8, 0.8, 0.8),
            "lower slope : 72.0 % on the mean curves after 300 images, from scratch after at most"
            f" 100 (at most 0.33{TIMES})",
        ),
        ((0.1, 0.75, 0.8, 0.8), (0.1, 0.8, 0.8, 0.8), "no slope to compare : both jump to 72.0 %"),
    ],
)
def test_a_bound_of_the_slope_is_called_one(transfer, scratch, sentence, tmp_path):
    runs = [make_run("from_scratch", curve=scratch), make_run("fine_tune", curve=transfer)]
    prescribed = {("digits", "small"): "fine_tune"}
    page = Elements(make_page(tmp_path, runs, prescribed=prescribed))
    assert sentence in page.text


def test_the_page_says_what_its_intervals_and_its_asymptote_are(tmp_path):
    text = Elements(make_page(tmp_path, make_grid())).text
    assert "clear over seeds only : the 95 % interval" in text
    assert "the evaluations in the last 10 % of the images, at least the last evaluation" in text
    assert "The threshold is 90 % of the from-scratch asymptote." in text


def test_one_seed_claims_no_interval(tmp_path):
    text = Elements(make_page(tmp_path, make_grid(seeds=1))).text
    assert not re.search(r"\bnan\b", text)
    assert "with one seed there is no telling a difference from noise" in text
    assert ": clear" not in text


def test_curves_that_never_move_make_a_page(tmp_path):
    runs = [make_run(scenario, curve=(0.1, 0.1)) for scenario in SCENARIOS]
    text = Elements(make_page(tmp_path, runs)).text
    assert "no slope to compare" in text
    assert "equal start : +0.0 points" in text


def test_text_of_the_data_is_escaped(tmp_path):
    runs = [make_run(s, seed, HOSTILE, HOSTILE) for s in SCENARIOS for seed in range(2)]
    source = make_run("from_scratch", target=HOSTILE)
    for run in runs:
        run.summary["versions"][HOSTILE] = HOSTILE
        run.summary["devices"] = [HOSTILE]
    page = make_page(
        tmp_path,
        runs,
        source,
        prescribed={(HOSTILE, HOSTILE): "fine_tune"},
        similarity={HOSTILE: HOSTILE},
        command=HOSTILE,
    )
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page
    assert "script" not in {tag for tag, _ in Elements(page).tags}


def test_same_runs_same_bytes(tmp_path):
    first = make_page(tmp_path, make_grid())
    assert make_page(tmp_path, make_grid()) == first
