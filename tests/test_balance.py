"""Classes of unequal sizes: class weights, balanced sampling, and that both agree."""

import itertools
from collections import Counter
from contextlib import closing

import jax
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

import tljax
from tljax import data as data_lib
from tljax.data import ArraySource, Preprocessing, balanced_weights, fixed_views, train_batches
from tljax.data.labels import BalancedOrder
from tljax.frozen.cache import CachedSource
from tljax.models import ViT, init
from tljax.training.step import loss_and_gradient

PREPROCESSING = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
LABELS = np.repeat([0, 1, 3], [20, 7, 2])  # nothing of class 2
CLASSES = 3


@pytest.fixture(scope="module")
def source():
    """Image i has grey level i."""
    greys = np.arange(len(LABELS), dtype=np.uint8)[:, None, None]
    return ArraySource(np.broadcast_to(greys, (len(LABELS), 8, 8)), LABELS)


def first(batches, count):
    with closing(batches):
        return list(itertools.islice(batches, count))


def balanced(source, batch_size=6, seed=0, **options):
    return train_batches(
        source, PREPROCESSING, batch_size=batch_size, seed=seed, sampling="balanced", **options
    )


def shown_in(batches):
    """The numbers of the images: their grey levels."""
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])


def test_the_weights_are_scikit_learns_and_one_in_the_mean():
    weights = balanced_weights(LABELS, 4)
    expected = compute_class_weight("balanced", classes=np.unique(LABELS), y=LABELS)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected, rtol=1e-6)
    assert weights[2] == 0
    assert weights[LABELS].mean() == pytest.approx(1)


def test_the_weighted_gradient_is_that_of_repeated_images():
    """Classes of six, three, two and one images, against six images of each class."""
    model = ViT(32, 1, 2, 8, num_classes=4)
    plan = tljax.from_scratch(model.groups)
    variables = init(model, jax.random.key(0), 32)
    trained, frozen = plan.partition(variables["params"])
    counts = np.array([6, 3, 2, 1])
    labels = np.repeat(np.arange(4, dtype=np.int32), counts)
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    repeated = np.repeat(np.arange(12), 6 // counts[labels])

    def gradient(**batch):
        compute = jax.jit(loss_and_gradient(model, plan, Preprocessing(32, (0.5,) * 3, (0.5,) * 3)))
        everything = {"params": frozen, "batch_stats": {}}
        metrics, found, _ = compute(trained, {}, everything, batch, jax.random.key(0))
        return metrics["loss"], found

    weight = balanced_weights(labels, 4)[labels]
    loss, weighted = gradient(image=images, label=labels, weight=weight)
    expected_loss, expected = gradient(image=images[repeated], label=labels[repeated])
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(weighted), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale)


def test_every_class_has_its_place_in_every_round_and_every_image_its_turn():
    order = BalancedOrder(LABELS, seed=3)
    images, shown = order(np.arange(70 * CLASSES))
    rounds = LABELS[images].reshape(-1, CLASSES)
    assert (np.sort(rounds, axis=1) == [0, 1, 3]).all()
    assert len({tuple(r) for r in rounds}) > 1, "rounds differ in order"
    before = Counter()
    for image, times in zip(images.tolist(), shown, strict=True):
        assert times == before[image]
        before[image] += 1
    for label in np.unique(LABELS):
        times = [before[i] for i in np.flatnonzero(label == LABELS)]
        assert max(times) - min(times) <= 1
    later, _ = order(np.arange(100, 110))
    assert (later == images[100:110]).all(), "independent of earlier calls"
    other, _ = BalancedOrder(LABELS, seed=4)(np.arange(70 * CLASSES))
    assert (other != images).any()


def test_batches_hold_every_class_equally_often(source):
    batches = first(balanced(source), 10)
    for batch in batches:
        assert Counter(batch["label"].tolist()) == {0: 2, 1: 2, 3: 2}
        assert (batch["label"] == LABELS[batch["image"][:, 0, 0, 0]]).all()
    one_class_too_many = first(balanced(source, batch_size=7), 1)[0]
    assert sorted(Counter(one_class_too_many["label"].tolist()).values()) == [2, 2, 3]


def test_they_resume_and_are_shared_out_as_others_are(source):
    whole = first(balanced(source, augment="crop"), 6)
    with closing(balanced(source, augment="crop")) as batches:
        list(itertools.islice(batches, 4))
        state = batches.get_state()
    going_on = balanced(source, augment="crop")
    going_on.set_state(state)
    for a, b in zip(first(going_on, 2), whole[4:], strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
    parts = [
        first(balanced(source, augment="crop", rows=np.array(rows)), 6)
        for rows in ([0, 2, 4], [1, 3, 5])
    ]
    for batch, even, odd in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(batch["image"][::2], even["image"])
        np.testing.assert_array_equal(batch["image"][1::2], odd["image"])
    shuffled = train_batches(source, PREPROCESSING, batch_size=6, seed=0, augment="crop")
    with pytest.raises(tljax.errors.InputError, match="sampling of the training data was balanced"):
        shuffled.set_state(state)


def test_kept_features_come_in_the_order_of_the_images(source):
    features = np.arange(len(LABELS), dtype=np.float32)[:, None]
    cached = CachedSource(1, features, np.arange(len(LABELS)), LABELS)
    numbers = [b["features"][:, 0] for b in first(cached.shuffled(6, 0, sampling="balanced"), 8)]
    assert (np.concatenate(numbers) == shown_in(first(balanced(source), 8))).all()


def test_each_time_that_an_image_is_shown_it_shows_its_next_view(source):
    noise = np.random.default_rng(0).integers(0, 256, (len(LABELS), 8, 8, 3), np.uint8)
    views = fixed_views(ArraySource(noise, LABELS), PREPROCESSING, "crop", (0.5, 1.0), 3)
    count = len(LABELS)
    numbers = shown_in(first(balanced(source), 20))
    batches = first(balanced(views, views=3), 20)
    before = Counter()
    for image, number in zip(np.concatenate([b["image"] for b in batches]), numbers, strict=True):
        expected = views[before[number] % 3 * count + int(number)]["image"]
        np.testing.assert_array_equal(image, expected)
        before[number] += 1
    assert max(before.values()) > 3, "or no view is repeated"


def test_an_epoch_is_as_long_as_it_was_and_several_tasks_train_too():
    tasks = {"digits": 10, "textures": 10}
    both = data_lib.load("embedded:digits,embedded:textures", train_size=40)
    model = ViT(32, 1, 2, 8, num_classes=20)
    for options in ({"sampling": "balanced"}, {"class_weights": "balanced"}):
        result = tljax.fit(
            model,
            None,
            tljax.from_scratch(model.groups),
            both.train,
            None,
            tasks=tasks,
            preprocessing=Preprocessing(32, (0.5,) * 3, (0.5,) * 3),
            batch_size=20,
            epochs=2,
            lr=0.01,
            label_smoothing=0.1,
            progress=False,
            **options,
        )
        assert result.summary["steps"] == 2 * 80 // 20
        assert np.isfinite(result.history[-1]["loss"])
