"""The loss of smoothed and of mixed labels, and mixed images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tljax
from tests.test_step import assert_same, batch_of, gradient_of
from tljax.data import Preprocessing, normalise
from tljax.errors import InputError
from tljax.models import ViT, init
from tljax.training.loss.mixing import mix
from tljax.training.loss.objective import Objective
from tljax.training.problems import CLASSES, Classification
from tljax.training.step import loss_and_gradient

cross_entropy = optax.softmax_cross_entropy_with_integer_labels
PREPROCESSING = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
SMALL = ViT(32, 1, 2, 8, num_classes=10)  # an embedding, one block, a head
BOTH = Objective(mixup=0.8, cutmix=1.0)


def logits_and_labels(count=12, classes=8):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    return logits, rng.integers(0, classes, count).astype(np.int32)


def half_white(height=32, width=32, count=6):
    """Images of 0 and images of 255; a mixed pixel shows the share of each."""
    image = np.zeros((count, height, width, 3), np.uint8)
    image[count // 2 :] = 255
    return {"image": image, "label": np.arange(count, dtype=np.int32)}


# --- labels --------------------------------------------------------------------------------------


def test_without_options_it_is_the_mean_cross_entropy_and_the_batch_to_the_bit():
    logits, labels = logits_and_labels()
    batch = {"label": labels}
    assert Objective().loss(logits, batch) == cross_entropy(logits, labels).mean()
    images = batch_of(4)
    assert Objective().mix(images, jax.random.key(0)) is images


def test_a_smoothed_label_is_spread_over_all_classes():
    """The label keeps 1 - smoothing, and every class gets an equal share of the rest."""
    logits, labels = logits_and_labels()
    of_each_class = [cross_entropy(logits, np.full_like(labels, c)) for c in range(8)]
    expected = 0.9 * cross_entropy(logits, labels) + 0.1 * np.mean(of_each_class, axis=0)
    loss = Objective(label_smoothing=0.1).loss(logits, {"label": labels})
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-6)


def test_of_several_tasks_labels_are_smoothed_and_mixed_within_each():
    """Loss and gradient are those of a separate head for each task."""
    logits, _ = logits_and_labels()
    labels = np.array([0, 1, 2, 1, 0, 2, 3, 4, 5, 6, 7, 3])  # three classes, then five
    weight = np.linspace(0.5, 2, 12).astype(np.float32)
    objective = Objective(label_smoothing=0.2)
    share = np.full(12, 0.7, np.float32)
    batch = {"label": labels, "weight": weight, "share": share}
    batch |= {"other_label": labels[::-1], "other_weight": weight[::-1]}

    def together(logits):
        return objective.loss(logits, batch, Classification((3, 5)))

    def alone(logits):
        total = 0.0
        for i in range(12):
            for label, its_weight, its_share in (
                (labels[i], weight[i], 0.7),
                (labels[11 - i], weight[11 - i], 0.3),
            ):
                first, end = (0, 3) if label < 3 else (3, 8)
                own = logits[None, i, first:end]
                loss = objective.loss(own, {"label": jnp.array([label - first])})
                total += its_share * its_weight * loss
        return total / 12

    loss, gradient = jax.value_and_grad(together)(logits)
    expected, expected_gradient = jax.value_and_grad(alone)(logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


# --- images --------------------------------------------------------------------------------------


def test_the_loss_is_the_convex_combination_of_those_of_both_labels():
    """Mixes images by hand, with shares read from pixels, and applies the network."""
    model = SMALL
    plan = tljax.from_scratch(model.groups)
    variables = init(model, jax.random.key(0), 32)
    trained, frozen = plan.partition(variables["params"])
    compute = jax.jit(loss_and_gradient(model, plan, PREPROCESSING, objective=BOTH))
    mix, logits_of = jax.jit(BOTH.mix), jax.jit(model.apply)
    everything = {"params": frozen, "batch_stats": {}}
    batch, ways = batch_of(6), set()
    for seed in range(12):
        key = jax.random.key(seed)
        whose = np.asarray(mix(half_white(), key)["image"][5:]) / 255
        ways.add("mixup" if len(np.unique(whose)) == 1 else "cutmix")
        metrics, _, _ = compute(trained, {}, everything, batch, key)
        image = whose * batch["image"] + (1 - whose) * batch["image"][::-1]
        logits = logits_of(variables, normalise(image, PREPROCESSING))
        share = float(whose.mean())
        expected = share * cross_entropy(logits, batch["label"])
        expected += (1 - share) * cross_entropy(logits, batch["label"][::-1])
        assert float(metrics["loss"]) == pytest.approx(float(expected.mean()), rel=1e-5)
    assert ways == {"mixup", "cutmix"}


@pytest.mark.parametrize("sides", [(32, 32), (21, 40)])
def test_a_box_is_cut_out_and_its_pixels_are_the_labels_share(sides):
    mix = jax.jit(Objective(cutmix=1.0).mix)
    shares = []
    for seed in range(40):
        result = mix(half_white(*sides), jax.random.key(seed))
        images, share = np.asarray(result["image"]), np.asarray(result["share"])
        assert set(np.unique(images)) <= {0.0, 255.0}, "pixels are not blended"
        np.testing.assert_array_equal(images[0], 255 - images[5])
        for image, own, its_share in zip(images, half_white(*sides)["image"], share, strict=True):
            kept = image[..., 0] == own[..., 0]
            assert its_share * kept.size == pytest.approx(kept.sum(), abs=1e-3), "exact to a pixel"
            box = np.argwhere(~kept)
            if len(box):
                (top, left), (bottom, right) = box.min(axis=0), box.max(axis=0)
                assert not kept[top : bottom + 1, left : right + 1].any(), "one box"
        assert (result["other_label"] == result["label"][::-1]).all()
        shares.append(float(share[0]))
    assert len(set(shares)) > 20
    assert 0.3 < np.mean(shares) < 0.8


def test_of_both_ways_each_batch_goes_one():
    mix = jax.jit(BOTH.mix)
    ways = []
    for seed in range(40):
        result = mix(half_white(), jax.random.key(seed))
        image, share = np.asarray(result["image"][5]), float(result["share"][0])
        is_blend = len(np.unique(image)) == 1
        assert share == pytest.approx(float(image.mean()) / 255, abs=1e-6)
        ways.append(is_blend)
    assert 10 < sum(ways) < 30


def test_mixup_blends_all_pixels_alike():
    result = mix(half_white(), jax.random.key(0), 0.4, 0.0)
    share = float(result["share"][0])
    assert 0 < share < 1
    np.testing.assert_allclose(result["image"][0], 255 * (1 - share), rtol=1e-5)
    np.testing.assert_allclose(result["image"][5], 255 * share, rtol=1e-5)


def test_pairs_do_not_depend_on_the_parts_that_a_batch_comes_in():
    model = SMALL
    plan = tljax.freeze_first(model.groups, 1)
    whole = gradient_of(model, plan, objective=BOTH)
    assert_same(whole, gradient_of(model, plan, accumulate=3, objective=BOTH))


def test_accuracy_counts_the_label_with_the_larger_share():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    batch = {"label": np.array([0, 0, 2, 1]), "other_label": np.array([1, 1, 0, 2])}
    for share, expected in ((0.6, 0.5), (0.4, 0.5), (0.5, 0.5)):
        batch["share"] = np.full(4, share, np.float32)
        assert float(CLASSES.of_step(logits, batch)["accuracy"]) == expected
    batch["other_label"] = np.array([1, 1, 0, 1])
    assert float(CLASSES.of_step(logits, batch)["accuracy"]) == 0.5  # the first and the third
    batch["share"] = np.full(4, 0.4, np.float32)
    assert float(CLASSES.of_step(logits, batch)["accuracy"]) == 0.25  # the second


def test_what_frozen_groups_make_of_mixed_images_cannot_be_kept(capfd):
    model = SMALL
    variables = init(model, jax.random.key(0), 32)
    plan = tljax.feature_extraction(model.groups)
    images = (batch_of(12)["image"], batch_of(12)["label"])
    options = {"preprocessing": PREPROCESSING, "batch_size": 6, "steps": 2, "mixup": 0.2}
    with pytest.raises(InputError, match="nothing can be cached"):
        tljax.fit(model, variables, plan, images, None, **options, cache="memory")
    tljax.fit(model, variables, plan, images, None, **options)
    told = " ".join(capfd.readouterr().err.split())
    assert "without mixup and cutmix, and with on_error=fail, their output would be" in told
