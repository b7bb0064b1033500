"""Kinds of labels: several labels an image, and numbers."""

import numpy as np
import pytest

from tljax.data import ArraySource, Subset, kind_of, strata, train_batches
from tljax.data.labels import as_labels
from tljax.data.splits import split_off
from tljax.data.transforms import Preprocessing
from tljax.errors import InputError

SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0]], np.uint8)


def test_the_kind_follows_from_the_array():
    assert kind_of(as_labels([0, 2, 1], 3)) == "classes"
    assert kind_of(as_labels(SEVERAL, 4)) == "multi_label"
    assert kind_of(as_labels(SEVERAL.astype(bool).tolist(), 4)) == "multi_label"
    numbers = as_labels([0.5, 2.0], 2)
    assert kind_of(numbers) == "regression"
    assert numbers.shape == (2, 1)
    assert as_labels([1.7e9, 2.0e9], 2).tolist() == [[1.7e9], [2.0e9]]
    assert as_labels([1e9, 1e9], 2).tolist() == [[1e9], [1e9]], "the same is not too close"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([-1, 0], "integers from 0"),
        ([0, 1, 2], "shape"),
        ([[0, 2], [1, 0]], "0 and 1 are"),
        ([0.5, np.nan], "1 numbers among the labels are not finite"),
        ([1.7e9, 1.7e9 + 1], "column 0 of the labels has numbers .* too close together"),
        ([[0.5, 1e8], [2.0, 1e8 + 9]], "column 1 of the labels"),
        (["a", "b"], "integers from 0"),
        (np.zeros((2, 0)), "shape"),
    ],
)
def test_other_labels_are_refused(labels, expected):
    with pytest.raises(InputError, match=expected):
        as_labels(labels, 2)


def test_rare_labels_and_the_range_of_numbers_are_on_both_sides():
    labels = np.zeros((100, 3), np.uint8)
    labels[:, 0], labels[:4, 1], labels[4:40, 2] = 1, 1, 1
    assert strata(labels).tolist() == [1] * 4 + [2] * 36 + [0] * 60
    assert strata(SEVERAL).tolist() == [2, 3, 1, 0]
    source = ArraySource(np.zeros((100, 4, 4), np.uint8), labels)
    kept, held = split_off(source, 0.25, np.random.default_rng(0))
    assert labels[held].sum(0).tolist() == [25, 1, 9]
    assert len(kept) == 75

    numbers = np.random.default_rng(0).permutation(100).astype(np.float32)[:, None]
    assert np.bincount(strata(numbers)).tolist() == [10] * 10
    assert (strata(np.zeros((5, 1), np.float32)) == strata(np.ones((5, 1), np.float32))).all()
    source = ArraySource(np.zeros((100, 4, 4), np.uint8), numbers)
    _, held = split_off(source, 0.2, np.random.default_rng(0))
    assert np.bincount(numbers[held, 0].astype(int) // 10).tolist() == [2] * 10


@pytest.mark.parametrize("labels", [SEVERAL, np.array([[0.5], [2], [3], [9]], np.float32)])
def test_batches_hold_rows_of_labels(labels):
    source = ArraySource(np.zeros((4, 8, 8), np.uint8), labels)
    preprocessing = Preprocessing(8, mean=(0.5,) * 3, std=(0.5,) * 3)
    batches = train_batches(Subset(source, [3, 2, 1, 0]), preprocessing, batch_size=4, seed=0)
    found = next(batches)["label"]
    batches.close()
    assert found.dtype == np.float32
    assert sorted(found.tolist()) == sorted(labels.astype(np.float32).tolist())


def test_of_few_images_a_share_is_split_off_too():
    def held(labels):
        source = ArraySource(np.zeros((len(labels), 4, 4), np.uint8), labels)
        return len(split_off(source, 0.2, np.random.default_rng(0))[1])

    for count in (5, 12, 24, 40):
        numbers = np.random.default_rng(0).normal(size=count)
        assert abs(held(numbers) - count / 5) < 1
        assert held(np.eye(count, dtype=np.uint8)) == round(count / 5), "each has a label alone"
