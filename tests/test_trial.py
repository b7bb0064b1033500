"""Trials before a run: what they choose, and that a run after them is a run like any other."""

import numpy as np
import pytest

from tests.bits import same
from tljax import config as config_lib
from tljax import experiment
from tljax.errors import InputError
from tljax.experiment import read_workdir
from tljax.runs.answers import Answers, Outputs
from tljax.training import trial
from tljax.training.problems import CLASSES, Classification, Evaluation, MultiLabel

STEPS = ["--config.steps=4", "--config.batch_size=16", "--config.augment=none"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A function of overrides: the config of a fine-tuning after trials."""
    source = tmp_path_factory.mktemp("source") / "run"
    words = ["--config.train_size=60", "--config.val_fraction=0", *STEPS]
    experiment.run(config_lib.load("from_scratch", words), source, progress=False)

    def make(*more, lrs="(0.05,)"):
        start = [f"--config.init_from={source}", "--config.accept_source=True"]
        start.append(f"--config.trial_lr={lrs}")
        return config_lib.load("fine_tune", [*words, *start, *more])

    return make


def test_a_run_after_trials_is_the_run_with_what_they_chose(tuned, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    result = experiment.run(tuned(), workdir, progress=False)
    config = read_workdir(workdir).config
    assert config.tried
    by_hand = [f"--config.{name}={config[name]}" for name in ("lr", "wise_ft_alpha")]
    alone = experiment.fit_config(tuned(*by_hand, lrs="()"))
    assert same(result.variables, alone.variables)

    (workdir / "result.json").unlink()
    monkeypatch.setattr(trial, "choose", None)  # a run that resumes does not ask again
    again = experiment.run(tuned(), workdir, progress=False)
    assert same(result.variables, again.variables)


def test_a_run_that_keeps_its_start_takes_one_step(tuned, tmp_path):
    """Its weights are those of the whole run that ends at the start of the line, to the bit."""
    workdir = tmp_path / "run"
    result = experiment.run(tuned(lrs="(1e9,)"), workdir, progress=False)
    assert result.summary["steps"] == 1
    assert "one step" in read_workdir(workdir).config.tried[0]
    whole = experiment.fit_config(tuned("--config.wise_ft_alpha=0.0", lrs="()"))
    assert whole.summary["steps"] == 4
    assert same(result.variables, whole.variables)
    (workdir / "result.json").unlink()
    again = experiment.run(tuned(lrs="(1e9,)"), workdir, progress=False)
    assert same(result.variables, again.variables)
    for changed in ("--config.steps=6", "--config.lr=0.2"):  # the last word counts
        with pytest.raises(InputError, match=changed.split(".")[1].split("=")[0]):
            experiment.run(tuned(changed, lrs="(1e9,)"), workdir, progress=False)


def test_every_image_is_judged_once_by_a_network_that_has_not_seen_it(tuned, monkeypatch):
    """And a rate that destroys the network is not chosen."""
    built = experiment.build(tuned())
    (setup,) = built.setups(experiment.load_data(built.config))
    left_out, once = [], trial.try_once

    def watched(setup, pretrained, lr, rows, alphas):
        left_out.append(rows)
        return once(setup, pretrained, lr, rows, alphas)

    monkeypatch.setattr(trial, "try_once", watched)
    chosen = trial.choose(setup, built.read_pretrained(), [1e9])
    assert chosen.candidate.alpha == 0
    assert chosen.images == 60
    assert (np.sum(left_out, axis=0) == 1).all()


@pytest.mark.parametrize("decides", ["accuracy", "loss"])
def test_a_start_is_not_blamed_for_a_rate_that_diverges(decides):
    """And of what did not diverge the best is taken, whatever the order of the rates."""
    start, wild, calm = (
        trial.Candidate(lr, alpha) for lr, alpha in ((10.0, 0.0), (10.0, 1.0), (0.1, 1.0))
    )
    right = np.arange(60) < 50
    nothing = trial.Tried(-np.inf, -np.inf, np.full(60, -np.inf), None)
    for better, worse in ((start, calm), (calm, start)):
        tried = {
            better: [answered(right, 0.8, decides)],
            worse: [answered(~right, 0.8, decides)],
            wild: [nothing],
        }
        assert trial._best(tried, CLASSES, decides) == better


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.wise_ft=False", "places on the line"),
        ("--config.val_fraction=0.2", "validation images"),
        ("--config.trial_lr=(-1.0,)", "above 0"),
        ("--config.train_per_class=2", "too few"),
    ],
)
def test_what_cannot_be_tried_is_refused(tuned, word, message, tmp_path):
    words = [word] if "train_per_class" not in word else [word, "--config.train_size=None"]
    if "wise_ft" in word:
        words.append("--config.wise_ft_alpha=None")
    with pytest.raises(InputError, match=message):
        experiment.run(tuned(*words), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_few_images_do_not_decide_by_chance():
    """A candidate needs clearly more right answers, or answers that know more of what is right."""
    start, end = trial.Candidate(0.1, 0.0), trial.Candidate(0.1, 1.0)
    by_chance = np.full(90, 0.5)

    def chosen(right_at_start, right_at_end, sure_at_start, sure_at_end):
        tried = {
            start: [answered(np.arange(90) < right_at_start, sure_at_start)],
            end: [answered(np.arange(90) >= 90 - right_at_end, sure_at_end)],
        }
        return trial._best(tried, CLASSES, "accuracy")

    unsure_where_wrong = np.where(np.arange(90) < 50, 0.9, 0.5)
    assert chosen(50, 58, unsure_where_wrong, by_chance) == start, "eight more of 108 are chance"
    assert chosen(50, 58, by_chance, by_chance) == start, "nor do they know more: the cheaper"
    assert chosen(50, 58, by_chance, np.full(90, 0.99)) == end
    assert chosen(50, 42, by_chance, unsure_where_wrong[::-1]) == end, "nor are eight fewer"
    assert chosen(40, 75, unsure_where_wrong, by_chance) == end


def test_a_network_that_is_too_sure_is_not_turned_down_for_it():
    """Of answers that are as often right, those of the surer network have a higher loss."""
    rng = np.random.default_rng(0)
    right = rng.permutation(90) < 60
    unsure, sure = answered(right, 0.6), answered(right, 0.999)
    assert sure.evaluation.loss > 3 * unsure.evaluation.loss
    losses = [CLASSES.comparable_loss([one.evaluation], "accuracy") for one in (unsure, sure)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    share = 60 / 90  # to be as sure as that is best
    assert losses[0] == pytest.approx(-share * np.log(share) - (1 - share) * np.log(1 - share))
    raw = [CLASSES.comparable_loss([one.evaluation], "loss") for one in (unsure, sure)]
    assert raw == [unsure.evaluation.loss, sure.evaluation.loss]


def test_no_temperature_changes_the_comparable_loss():
    """Of one label an image, of several, and of the classes of an image's own task."""
    rng = np.random.default_rng(1)
    one_label, several = rng.integers(0, 4, 50), rng.integers(0, 2, (50, 4)).astype(float)
    logits = rng.normal(size=(50, 4)) + several + 2 * np.eye(4)[one_label]
    tasks = Classification((2, 2))

    def loss(problem, labels, temperature):
        if problem.kind == "multi_label":
            outputs = 1 / (1 + np.exp(-logits / temperature))
            answers = Outputs(np.arange(50), labels, outputs)
        else:
            known = logits / temperature
            if problem is tasks:
                known = np.where(np.arange(4) // 2 == labels[:, None] // 2, known, -np.inf)
            p = np.exp(known) / np.exp(known).sum(1, keepdims=True)
            answers = Answers(np.arange(50), labels, p.argmax(1), p, p.max(1))
        evaluation = Evaluation({}, float("nan"), 50, answers=answers)
        return problem.comparable_loss([evaluation], "accuracy")

    for problem, labels in ((CLASSES, one_label), (MultiLabel(), several), (tasks, one_label)):
        found = [loss(problem, labels, temperature) for temperature in (0.5, 1.0, 2.0)]
        assert found == pytest.approx([found[0]] * 3, rel=1e-4)


def test_a_start_that_is_no_better_than_the_naive_baseline_is_not_kept():
    """Unless the end is right on clearly fewer images, also where it has the lower loss."""
    start, end = trial.Candidate(0.1, 0.0), trial.Candidate(0.1, 1.0)
    order = np.arange(90)

    def chosen(right_at_end, naive):
        tried = {
            start: [answered(order < 40, np.where(order < 40, 0.9, 0.5), naive=naive)],
            end: [answered(order >= 90 - right_at_end, 0.5, naive=naive)],
        }
        return trial._best(tried, CLASSES, "accuracy")

    assert chosen(36, naive=39.0) == start
    assert chosen(36, naive=40.0) == end, "four fewer are chance"
    assert chosen(20, naive=40.0) == start


def answered(right, sure, decides="accuracy", naive=-np.inf):
    """What a trial says of as many images of two classes: which are right, and how sure it is."""
    labels, count = np.arange(len(right)) % 2, len(right)
    predicted = np.where(right, labels, 1 - labels)
    p = np.broadcast_to(np.asarray(sure, float), count)
    probabilities = np.where(np.arange(2) == predicted[:, None], p[:, None], 1 - p[:, None])
    loss = float(-np.log(probabilities[np.arange(count), labels]).mean())
    answers = Answers(np.arange(count), labels, predicted, probabilities, p)
    evaluation = Evaluation({"accuracy": right.mean()}, loss, count, answers=answers)
    score = right.sum() if decides == "accuracy" else -loss * count
    return trial.Tried(float(score), naive, right.astype(float), evaluation)
