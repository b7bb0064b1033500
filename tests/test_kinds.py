"""Kinds of labels: several labels an image, and numbers."""

import numpy as np
import pytest
from PIL import Image

from tljax.data import ArraySource, Subset, as_source, kind_of, strata, train_batches
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


PIXELS = np.zeros((6, 4, 4, 3), np.uint8)
CLASSES = np.array([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("of_one_size", [True, False])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.eye(3, dtype=np.float32)[CLASSES],
            r"each row has a single 1, the rest 0; pass labels.a",
        ),
        (np.eye(2)[CLASSES % 2].tolist(), "pass labels.argmax"),
        (CLASSES[:, None], r"have shape \(6, 1\) and dtype int64; flatten them"),
        ((CLASSES % 2).astype(np.uint8)[:, None], "flatten them, with labels.reshape"),
    ],
)
def test_classes_that_look_like_another_kind_are_refused(labels, message, of_one_size):
    images = PIXELS if of_one_size else [*PIXELS[1:], np.zeros((5, 5, 3), np.uint8)]
    with pytest.raises(InputError, match=message):
        as_source((images, labels))
    with pytest.raises(InputError, match=message):
        as_source(
            [{"image": image, "label": own} for image, own in zip(images, labels, strict=True)]
        )


@pytest.mark.parametrize(
    ("times", "labels", "kind", "said"),  # what is said once differs with the number of images
    [
        (
            51,
            np.array([20.0, 31, 5, 44, 60, 7]),
            "regression",
            "floats, so they are numbers to predict",
        ),
        (52, CLASSES.astype(float), "regression", "pass integers for classes"),
        (
            53,
            SEVERAL[[0, 1, 2, 3, 0, 1]].astype(float),
            "regression",
            "or for several labels an image",
        ),
        (54, np.array([0.5, 1, 2, 3, 4, 5]), "regression", ""),
        (55, np.array([[0.25, 0.75]] * 3 + [[1, 0]] * 3), "regression", ""),
        (56, CLASSES, "classes", ""),
        (57, (CLASSES > 0)[:, None], "multi_label", ""),
        (58, SEVERAL[[0, 1, 2, 3, 0, 1]], "multi_label", ""),
        (
            59,
            np.eye(3, dtype=int)[CLASSES],
            "multi_label",
            "each has exactly one; pass labels.argmax",
        ),
    ],
)
def test_labels_that_may_be_meant_otherwise_are_warned_of(times, labels, kind, said, caplog):
    labels, pixels = np.concatenate([labels] * times), np.concatenate([PIXELS] * times)
    for images in (pixels, [*pixels[1:], np.zeros((5, 5, 3), np.uint8)]):
        source = as_source((images, labels))
        assert kind_of(source.labels) == kind
        np.testing.assert_array_equal(source.labels, labels.reshape(source.labels.shape))
    assert len(caplog.messages) == bool(said)
    assert said in caplog.text


class Transformed:
    """As a data set of torchvision with `targets` and a `target_transform`."""

    targets = CLASSES.tolist()

    def __init__(self, transform):
        self._transform = transform

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        return Image.fromarray(PIXELS[index]), self._transform(self.targets[index])


def test_elements_with_another_label_than_the_attribute_are_refused():
    source = as_source(Transformed(lambda label: label // 2))
    assert source[0]["label"] == 0
    with pytest.raises(
        InputError,
        match="element 2 of the data has the label 1, but its attribute"
        " 'targets' says 2; drop target_transform",
    ):
        source[2]
    with pytest.raises(InputError, match=r"element 1 of the data has the label .*says 1"):
        as_source(Transformed(lambda label: np.eye(3)[label - 1]))[1]
    for same in (int, float, np.int32, lambda label: np.array([label]), lambda n: np.eye(3)[n]):
        source = as_source(Transformed(same))
        assert [source[i]["label"] for i in range(6)] == CLASSES.tolist()
    smooth = as_source(Transformed(lambda label: 0.9 * np.eye(3)[label] + 0.1 / 3))
    assert smooth[1]["label"] == 1, "probabilities cannot be compared"


def test_numbers_and_several_labels_are_compared_too():
    numbers = Transformed(lambda label: label / 3)
    numbers.targets = np.arange(6) / 7
    numbers._transform = float
    assert as_source(numbers)[5]["label"] == np.float32(5 / 7), "32 bits are no contradiction"
    numbers._transform = lambda label: 2 * label
    with pytest.raises(InputError, match=r"element 5 of the data has the label 1\.42"):
        as_source(numbers)[5]
    several = Transformed(lambda row: row[::-1])
    several.targets = SEVERAL[[0, 1, 2, 3, 0, 1]]
    assert as_source(several)[0]["label"].tolist() == [1, 0, 1]
    with pytest.raises(InputError, match=r"element 2 of the data has the label \[0 1 1\]"):
        as_source(several)[2]


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
