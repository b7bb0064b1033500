"""Advice: beliefs, races within a budget, and files that run; no label of a test image is read."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tljax import config as config_lib
from tljax import data as tljax_data
from tljax import experiment
from tljax.advice import advisor, config_page, decision, distances, prior, races, textbook
from tljax.advice.decision import Measured
from tljax.advice.prior import Covariates, Normal, Recorded
from tljax.advice.strategies import FINE_TUNE, NAMES, PROBE, build_all
from tljax.advice.words import sentences, train_command
from tljax.cli import main
from tljax.commands.advise.source_model import source_fields
from tljax.experiment import Experiment


def test_the_textbooks_four_fields():
    says = [textbook.advise(images, s).strategy for images in (100, 5_000) for s in (0.8, 0.1)]
    assert says == ["feature_extraction", "freeze_first", "fine_tune", "from_scratch"]
    assert textbook.similarity(0.9, 0.6) == pytest.approx(0.75)
    assert textbook.similarity(1.0, 1.0) == 0.0


def recorded(gain, roots=8, kind="large", noise=0.0):
    rng = np.random.default_rng(0)
    for root in range(roots):
        known = Covariates(*rng.uniform([0, 0.1, 0], [1.3, 0.7, 0.5]))
        better = gain(known) + noise * rng.normal()
        accuracies = {PROBE: 0.6, FINE_TUNE: 0.6 + better}
        yield Recorded(kind, str(root), known, 0.65, accuracies, {}, {"mmd": float(root)})


def test_the_prior_finds_the_mean_gain_and_the_probes_offset():
    fitted = prior.fit(recorded(lambda known: 0.08))
    line = fitted.gains["large"][FINE_TUNE]
    assert line.at(Covariates(0.5, 0.4, 0.2)).mean == pytest.approx(0.08, abs=1e-3)
    assert fitted.offsets["large"].mean == pytest.approx(-0.05)
    assert "small" not in fitted.gains
    assert prior.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_many_targets_teach_the_slopes_and_few_leave_them_near_zero():
    def steep(known):
        return 0.2 * known.headroom

    def slope(roots):
        line = prior.fit(recorded(steep, roots)).gains["large"][FINE_TUNE]
        low, high = (line.at(Covariates(0.5, headroom, 0.2)).mean for headroom in (0.2, 0.6))
        return (high - low) / 0.4

    assert slope(3) < slope(300) == pytest.approx(0.2, abs=0.02)


def test_beliefs_are_as_wide_as_the_recorded_gains_are_spread():
    here = Covariates(0.5, 0.4, 0.2)

    def width(spread, roots):
        fitted = prior.fit(recorded(lambda known: 0.05, roots, noise=spread))
        return fitted.gains["large"][FINE_TUNE].at(here).deviation

    assert width(0.02, 500) == pytest.approx(0.02, rel=0.15)
    assert width(0.10, 500) == pytest.approx(0.10, rel=0.15)
    assert width(0.0, 3) > 2 * width(0.0, 500)  # few data sets that agree prove little


def test_a_race_moves_the_beliefs_as_bayes_says():
    before = {FINE_TUNE: Normal(0.1, 0.1), "freeze_first": Normal(0.08, 0.05)}
    assert decision.update(before, {}, {}) == before
    measured = Measured(gain=0.3, images=100, accuracy=0.5, length=0.1)
    exact = Normal(0.0, 0.0)
    after = decision.update(before, {FINE_TUNE: measured}, {FINE_TUNE: exact})
    noise = 0.25 / 100
    weight = 0.1**2 / (0.1**2 + noise)
    assert after[FINE_TUNE].mean == pytest.approx(0.1 + weight * 0.2)
    assert after[FINE_TUNE].deviation == pytest.approx((1 / 0.01 + 1 / noise) ** -0.5)
    # the other, which did not race, moves by the regression of its gain on the measurement
    slope = 0.7 * 0.1 * 0.05 / (0.1**2 + noise)
    assert after["freeze_first"].mean == pytest.approx(0.08 + slope * 0.2)
    assert after["freeze_first"].deviation < before["freeze_first"].deviation


def test_beliefs_after_races_err_as_much_as_they_say():
    before = {FINE_TUNE: Normal(0.1, 0.1), "freeze_first": Normal(0.1, 0.1)}
    level = Measured(gain=0.3, images=30, accuracy=0.5, length=1.0)
    rng = np.random.default_rng(0)

    def draw(deviation, correlation):
        shared, own = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 2))
        return deviation * (np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)

    gains = 0.1 + draw(0.1, 0.7)  # as the belief has them, and as races see them
    seen = gains + draw(level.sampling**0.5, 0.5)
    exact = dict.fromkeys(before, Normal(0.0, 0.0))
    believed = []
    for row in seen:
        races = {n: level._replace(gain=float(g)) for n, g in zip(before, row, strict=True)}
        after = decision.update(before, races, exact)
        believed.append([after[name].mean for name in before])
    errors = gains - np.array(believed)
    assert errors.std() == pytest.approx(after[FINE_TUNE].deviation, rel=0.05)
    assert np.abs(np.corrcoef(errors.ravel(), np.ravel(believed))[0, 1]) < 0.05


def test_of_two_that_are_level_the_one_at_half_the_cost_is_chosen():
    costs = {PROBE: 0.01, "freeze_first": 0.5, FINE_TUNE: 1.0}
    gains = {PROBE: 0.0, "freeze_first": 0.048, FINE_TUNE: 0.05}
    choice = decision.choose({n: Normal(g, 0.01) for n, g in gains.items()}, costs)
    assert (choice.name, choice.best) == ("freeze_first", FINE_TUNE)
    assert choice.runner_up == FINE_TUNE
    little_cheaper = decision.choose(
        {n: Normal(g, 0.01) for n, g in gains.items()}, costs | {"freeze_first": 0.6}
    )
    assert little_cheaper.name == little_cheaper.best == FINE_TUNE
    clear = decision.choose({n: Normal(g, 1e-6) for n, g in gains.items()}, costs)
    assert clear.sureness == 1.0
    assert 0 < decision.choose({n: Normal(g, 0.1) for n, g in gains.items()}, costs).sureness < 1


def test_distances_say_how_far_the_target_lies_from_the_source():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = rng.standard_normal((90, 4)) + np.eye(3, 4)[labels]
    means = np.stack([x[labels == label].mean(axis=0) for label in range(3)])
    source = experiment.SourceStatistics(means, np.bincount(labels), np.cov(x.T), x)
    near, far = (distances.compute(source, x + shift, labels) for shift in (0.0, 2.0))
    assert near["frechet"] == pytest.approx(0, abs=1e-6)
    assert near["emd"] == pytest.approx(0, abs=1e-9)
    assert far["frechet"] == pytest.approx(4 * 2.0**2 / np.trace(np.cov(x.T)), rel=1e-6)
    assert all(far[name] > near[name] for name in distances.NAMES)
    assert distances.percentiles({"mmd": 2.0, "emd": 1.0}, {"mmd": [1.0, 2.0, 3.0, 4.0]}) == {
        "mmd": 0.25
    }


def test_secrets_of_an_address_are_in_no_file_and_names_end_no_docstring():
    word = "--config.init_from=https://ann:pw@host/x?sig=KEY"
    assert advisor._without_secrets(word) == "--config.init_from=https://***@host/x?***"
    assert advisor._without_secrets("--config.k=3") == "--config.k=3"
    assert '"' not in config_page._quoted('folder:a"""b')


# ------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of images, of which three for testing are copies, and a source."""
    folder = tmp_path_factory.mktemp("advice")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        for split in ("train", "test"):
            (folder / "data" / split / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(rng.normal(level, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"data/train/{name}/{number}.png")
            if number < (2 if name == "dark" else 1):
                Image.fromarray(pixels).save(folder / f"data/test/{name}/{number}.png")
        Image.fromarray(255 - pixels).save(folder / f"data/test/{name}/other.png")
    words = ["--config.train_size=60", "--config.steps=2", "--config.batch_size=16"]
    experiment.run(config_lib.load("from_scratch", words), folder / "source", progress=False)
    return folder


def words(world, *more):
    start = [f"--config.data=folder:{world / 'data'}", f"--config.init_from={world / 'source'}"]
    short = ["--config.steps=10", "--config.batch_size=8", "--config.accept_source=True"]
    return [*start, *short, *more]


def test_advice_resumes_and_its_config_runs(world, tmp_path, monkeypatch):
    first = advisor.advise(words(world), tmp_path / "first", budget=0.5)
    assert {row["name"] for row in first["strategies"]} == set(NAMES)
    assert any(row["raced"] for row in first["strategies"])
    assert first["cost"]["spent"] <= 0.5
    built = experiment.build(config_lib.load(str(tmp_path / "first" / "advised.py")))
    assert isinstance(built, Experiment)
    assert built.config.scenario in first["choice"]["name"]

    done, once = [], races.run

    def killed(*args, **kwargs):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(once(*args, **kwargs))
        return done[-1]

    monkeypatch.setattr(races, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        advisor.advise(words(world), tmp_path / "killed", budget=0.5)
    monkeypatch.setattr(races, "run", once)
    again = advisor.advise(words(world), tmp_path / "killed", budget=0.5)
    assert (first["evidence"].pop("source_images"), again["evidence"].pop("source_images")) == (
        60,
        0,
    )
    for content in (first, again):
        del content["cost"]["seconds"]
    assert again == first


def test_test_images_say_nothing_but_whether_they_are_copies(world, tmp_path):
    """Without their labels, which here are wrong, and with other images the advice is the same."""
    shutil.copytree(world / "data" / "train", tmp_path / "data" / "train")
    for name, other in (("dark", "light"), ("light", "dark")):
        file = tmp_path / "data" / "test" / name / "other.png"
        file.parent.mkdir(parents=True)
        shutil.copy(world / "data" / "test" / other / "other.png", file)
    moved = [f"--config.data=folder:{tmp_path / 'data'}", *words(world)[1:]]
    found = [
        advisor.advise(overrides, tmp_path / name, budget=0.01)
        for name, overrides in (("with", words(world)), ("without", moved))
    ]
    between = [content["evidence"].pop("between_splits") for content in found]
    assert [list(counts["test"]) for counts in between] == [[5, 3], [2, 0]]
    for content in found:
        del content["cost"], content["settings"]
    assert found[0] == found[1]


def test_races_keep_to_the_budget(world):
    strategies = build_all(words(world))
    ranked = races.races_first(list(strategies))

    def cost_of(name, length):
        return races.race_cost(strategies[name], length)

    for available in (0.0, 50.0, 200.0, 1e4):
        run = []

        def race(name, length, run=run):
            run.append((name, length))
            return Measured(0.1 * ranked.index(name), 30, 0.5, length)

        _, spent = races.halve(ranked, cost_of, available, race)
        assert spent == pytest.approx(sum(cost_of(*heat) for heat in run))
        assert spent <= available
        if run:
            first = run[0][1]
            longer = [length for length in races.LENGTHS if length > first]
            both = [sum(cost_of(name, length) for name in ranked[:2]) for length in longer]
            assert all(cost > available for cost in both), "the longest that two can race"
    assert run == [(name, races.LENGTHS[-1]) for name in ranked], "with plenty all race to the end"


def test_the_better_half_of_a_round_goes_on():
    run = []

    def race(name, length):
        run.append((name, length))
        return Measured({"a": 0.1, "b": 0.3, "c": 0.2}[name], 30, 0.5, length)

    raced, spent = races.halve(["a", "b", "c"], lambda _, length: length, 1.2, race)
    assert run == [("a", 0.3), ("b", 0.3), ("c", 0.3)], "no longer one fits into what is left"
    assert spent == pytest.approx(0.9)
    run.clear()
    raced, _ = races.halve(["a", "b", "c"], lambda _, length: length, 1.95, race)
    assert run[3:] == [("b", 1.0)]
    assert {name: one.length for name, one in raced.items()} == {"a": 0.3, "b": 1.0, "c": 0.3}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--budget", "0"], "the budget is 0"),
        (["--image_size", "0"], "--image_size is 0; set it to 1 or more"),
        (["--init_from", "nowhere.safetensors"], "name it with --model"),
        (["--config.nothing=1"], "no config field"),
        (["--fast"], "unknown argument"),
    ],
)
def test_bad_input(argv, message, world, tmp_path, capsys):
    given = ["--data", f"folder:{world / 'data'}", "--init_from", f"{world / 'source'}"]
    code = main(["advise", *given, "--workdir", str(tmp_path / "w"), *argv])
    said = capsys.readouterr().err
    assert code == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_a_target_that_cannot_be_cross_validated_is_refused(world, tmp_path, capsys):
    lonely = tmp_path / "lonely"
    for name, count in (("many", 5), ("one", 1)):
        (lonely / "train" / name).mkdir(parents=True)
        (lonely / "test" / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (32, 32), (40 * number, 0, 0))
            image.save(lonely / "train" / name / f"{number}.png")
            image.save(lonely / "test" / name / f"{number}.png")
    argv = ["advise", "--data", f"folder:{lonely}", "--init_from", f"{world / 'source'}"]
    assert main([*argv, "--workdir", str(tmp_path / "w")]) == 2
    assert "single training image" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_races_leave_no_image_of_a_class_of_two_out(world, tmp_path):
    """One of them would be left to fit the probe on, which could not choose its penalty."""
    shutil.copytree(world / "data", tmp_path / "data")
    for number in range(2, 20):
        (tmp_path / "data" / "train" / "dark" / f"{number}.png").unlink()
    for number in range(20):
        image = Image.new("RGB", (32, 32), (10 * number, 250, 0))
        image.save(tmp_path / "data" / "train" / "light" / f"green{number}.png")
    address = f"folder:{tmp_path / 'data'}"
    content = advisor.advise([f"--config.data={address}", *words(world)[1:]], tmp_path / "w", 1.0)
    assert content["evidence"]["fewest"] == 2
    assert content["evidence"]["images"] >= races.LEAST_IMAGES
    assert {race["images"] for race in content["races"]} == {13}, "a third of the 40 of one class"
    dataset = tljax_data.load(address)
    (left_out,) = np.unique(dataset.train.labels[races.left_out(dataset)])
    assert dataset.class_names[left_out] == "light"

    def said(similarity, naive):
        evidence = content["evidence"] | {"similarity": similarity, "naive_accuracy": naive}
        return " ".join(sentences(content | {"evidence": evidence}))

    for similarity, naive in ((0.2, 0.0), (0.0, 0.0), (0.2, 1.0)):
        text = said(similarity, naive)
        assert ("no more than random weights" in text) == (similarity == 0)
        assert ("no more than always answering the commonest" in text) == (naive == 1)


def test_printed_commands_are_quoted_for_a_shell():
    words = shlex.split(train_command(Path("my runs/it's")))
    assert words[3:] == ["my runs/it's/advised.py", "--workdir", "my runs/it's/run"]


def test_a_workdir_of_other_advice_is_left_alone(world, tmp_path):
    workdir = tmp_path / "w"
    workdir.mkdir()
    kept = {"settings": {"data": "folder:elsewhere", "overrides": []}, "races": {}, "seconds": 0}
    (workdir / "advice_state.json").write_text(json.dumps(kept))
    with pytest.raises(advisor.InputError, match="other settings"):
        advisor.advise(words(world), workdir, budget=0.5)
    assert json.loads((workdir / "advice_state.json").read_text()) == kept


def test_a_source_tells_which_network_it_is_of(world, tmp_path):
    assert source_fields(str(world / "source")) == {"model": "resnet10_32"}
    words = ["--config.train_size=30", "--config.steps=2", "--config.batch_size=16"]
    config = config_lib.load("from_scratch", [*words, "--config.last_group=layer2_0"])
    experiment.run(config, tmp_path / "cut", progress=False)
    found = source_fields(str(tmp_path / "cut"))
    assert found == {"model": "resnet10_32", "last_group": "layer2_0"}
    file = str(tmp_path / "own.safetensors")
    assert main(["convert", str(world / "source"), "--model", "resnet10_32", "--output", file]) == 0
    assert source_fields(file) == {"model": "resnet10_32"}


def test_a_target_with_validation_images_races(world, tmp_path):
    shutil.copytree(world / "data", tmp_path / "data")
    shutil.copytree(world / "data" / "test", tmp_path / "data" / "val")
    moved = [f"--config.data=folder:{tmp_path / 'data'}", *words(world)[1:]]
    content = advisor.advise(moved, tmp_path / "w", budget=1.0)
    assert content["races"]


def test_what_is_set_to_a_default_is_still_set_in_the_config(world, tmp_path):
    asked = {"lr": 0.01, "batch_size": 64, "weight_decay": 0.0, "wise_ft": False, "augment": "none"}
    more = [f"--config.{name}={value}" for name, value in asked.items()]
    strategies = build_all(words(world, *more))
    for name in (FINE_TUNE, "freeze_first"):
        row = {"name": name, "in_words": "", "predicted": 0, "low": 0, "high": 1}
        content = {"strategies": [row]}
        config_page.write_config(tmp_path / "c.py", strategies[name], words(world, *more), content)
        built = experiment.build(config_lib.load(str(tmp_path / "c.py")))
        assert {field: built.config[field] for field in asked} == asked
        assert built.config.scenario == name


def test_k_is_for_freeze_first_alone_and_scenarios_are_not_chosen(world):
    strategies = build_all(words(world, "--config.k=3"))
    assert [strategies[name].k for name in NAMES] == [None, 3, None, None]
    with pytest.raises(advisor.InputError, match="so scenario cannot be set"):
        build_all(words(world, "--config.scenario=fine_tune"))


def test_advice_about_images_that_changed_is_refused(world, tmp_path):
    shutil.copytree(world / "data", tmp_path / "data")
    moved = [f"--config.data=folder:{tmp_path / 'data'}", *words(world)[1:]]
    advisor.advise(moved, tmp_path / "w", budget=0.01)
    (tmp_path / "data" / "train" / "dark" / "7.png").unlink()
    with pytest.raises(advisor.InputError, match="other training images"):
        advisor.advise(moved, tmp_path / "w", budget=0.01)


def test_a_source_no_better_than_the_naive_baseline_is_refused(world, tmp_path):
    refused = [word for word in words(world) if "accept_source" not in word]
    with pytest.raises(advisor.InputError, match="does not beat the naive baseline"):
        advisor.advise(refused, tmp_path / "w", budget=0.01)
    assert not (tmp_path / "w").exists()


def test_no_gain_is_larger_than_the_errors_of_the_probe():
    assert decision.within(Normal(0.05, 0.04), probe=0.98).mean == pytest.approx(0.02)
    assert decision.within(Normal(0.05, 0.04), probe=0.6) == Normal(0.05, 0.04)


def test_alike_strategies_are_surer_than_unlike_ones():
    gains = {PROBE: Normal(0.0, 1e-6), "a": Normal(0.1, 0.1), "b": Normal(0.1, 0.1)}
    sure = decision.choose(gains, dict.fromkeys(gains, 1.0)).sureness
    # of a and b, correlated by .7, one is ahead by more than a point with a probability of .45
    assert sure == pytest.approx(0.55 * 0.84, abs=0.06)


def test_what_a_race_samples_is_no_part_of_its_fidelity():
    def raced(sampling):
        rng = np.random.default_rng(0)
        for root in range(40):
            gain = float(rng.normal(0, 0.1))
            known = Covariates(0.5, 0.4, 0.2)
            accuracies = {PROBE: 0.6, FINE_TUNE: 0.6}
            yield Recorded(
                "small",
                str(root),
                known,
                0.6,
                accuracies,
                {(FINE_TUNE, 1.0): Normal(gain, sampling)},
            )

    believed = [prior.fit(raced(s)).fidelity("small", FINE_TUNE, 1.0) for s in (0.0, 0.06, 0.5)]
    variances = [belief.deviation**2 for belief in believed]
    assert variances[0] - variances[1] == pytest.approx(0.06**2, rel=0.2)
    assert believed[2].deviation < 0.03, "all of it is sampling"
