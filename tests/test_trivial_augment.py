"""TrivialAugment's operations, and the images that it gives in the pipeline."""

import numpy as np
import pytest

from tljax.data import ArraySource, Preprocessing, fixed_views
from tljax.data.transforms import augmentation
from tljax.data.trivial_augment import OPERATIONS, apply, trivial_augment

PREPROCESSING = Preprocessing(24, (0.5,) * 3, (0.5,) * 3)
WITHOUT_STRENGTH = ("autocontrast", "equalize")


def noise(height=24, width=30):
    image = np.random.default_rng(0).integers(40, 200, (height, width, 3), np.uint8)
    image[0, 0], image[1, 1] = 0, 255  # with the extremes of a byte
    return image


def test_the_space_is_the_papers_wide_one():
    assert len(OPERATIONS) == 14
    assert {name for name, (_, largest, _) in OPERATIONS.items() if not largest} == {
        "identity",
        *WITHOUT_STRENGTH,
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_strength_0_is_no_change_and_the_largest_is_one(name):
    _, largest, both_ways = OPERATIONS[name]
    if name not in WITHOUT_STRENGTH:
        np.testing.assert_array_equal(apply(noise(), name, 0.0), noise())
    for strength in (largest, -largest if both_ways else largest / 2):
        changed = apply(noise(), name, strength)
        assert changed.dtype == np.uint8
        assert changed.shape == noise().shape
        if largest:
            assert (changed != noise()).any()


def test_known_results():
    grey = np.full((4, 6, 3), 100, np.uint8)
    assert (apply(grey, "brightness", 0.5) == 150).all()
    assert (apply(grey, "brightness", -0.5) == 50).all()
    assert (apply(grey, "posterize", 6) == 64).all()  # two bits of eight are left
    assert (apply(grey, "solarize", 200) == 155).all()  # values of 56 or more are inverted
    assert (apply(grey, "solarize", 100) == 100).all()
    row = np.repeat(np.arange(6, dtype=np.uint8)[None, :, None], 4, axis=0).repeat(3, axis=2)
    moved = apply(row, "translate_x", 2)
    np.testing.assert_array_equal(moved[0, :, 0], [2, 3, 4, 5, 0, 0])
    two = np.arange(24, dtype=np.uint8).reshape(4, 6)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(apply(two, "shear_x", 0.99)[0], two[0])
    np.testing.assert_array_equal(apply(two, "shear_x", 0.99)[2, :4], two[2, 2:])


def test_an_image_depends_on_its_seed_alone_and_all_operations_come():
    results = [
        [trivial_augment(noise(), np.random.default_rng(seed)) for seed in range(300)]
        for _ in range(2)
    ]
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
    unchanged = sum((image == noise()).all() for image in results[0])
    assert len({image.tobytes() for image in results[0]}) > 150
    assert 10 < unchanged < 80  # identity and strength 0: 21 + 6 of 300 expected


def test_views_are_cropped_flipped_and_changed_once():
    source = ArraySource(np.stack([noise(30, 30)] * 2), [0, 1])
    views = fixed_views(source, PREPROCESSING, "trivial", (0.3, 1.0), 20)
    again = fixed_views(source, PREPROCESSING, "trivial", (0.3, 1.0), 20)
    plain = fixed_views(source, PREPROCESSING, "crop_flip", (0.3, 1.0), 20)
    for view in range(40):
        np.testing.assert_array_equal(views[view]["image"], again[view]["image"])
        assert views[view]["image"].shape == (24, 24, 3)
    same = sum((views[i]["image"] == plain[i]["image"]).all() for i in range(40))
    assert 0 < same < 20, "after the same crop and flip"
    assert augmentation("trivial")
