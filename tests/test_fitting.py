"""Weights fitted to another image size, number of channels, depth or head."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import tljax
from tests.reference_cases import GRIDS, POSITIONS, position_embedding
from tests.reference_weights import draw_all
from tljax.errors import InputError
from tljax.models import create
from tljax.weights import rules
from tljax.weights.families import TLJAX
from tljax.weights.fitting import adapt_channels, resample_positions

VIT, RESNET = "vit_micro_patch4_32", "resnet10_32"
POSITION_REFERENCES = Path(__file__).parent / "references/positions.npz"


@pytest.fixture(params=[VIT, RESNET])
def weights_file(request, tmp_path):
    """(model name, file) of random weights with a head of ten classes."""
    model = create(request.param, 10)
    path = tmp_path / "weights.safetensors"
    save_file(rules.unconvert(TLJAX, model, draw_all(model, 32)), path)
    return request.param, path


def random_images(*shape):
    return jax.random.normal(jax.random.key(0), shape)


# --- position embeddings ------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "grid"), GRIDS)
@pytest.mark.parametrize("original", POSITIONS)
def test_positions_are_resampled_as_the_familys_own_code_does(original, side, grid):
    embedding = position_embedding(side)
    theirs = np.load(POSITION_REFERENCES)[f"{original} {side} {grid[0]}x{grid[1]}"]
    ours = resample_positions(embedding, grid, 1, POSITIONS[original], original)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert np.array_equal(ours[:, 0], embedding[:, 0]), "the class token keeps its position"


@pytest.mark.parametrize("resampling", sorted(set(POSITIONS.values())))
def test_positions_of_the_same_grid_stay_as_they_are(resampling):
    embedding = position_embedding(7)
    assert np.array_equal(resample_positions(embedding, (7, 7), 1, resampling, "x"), embedding)


def test_positions_without_a_class_token():
    embedding = position_embedding(7)
    whole = resample_positions(embedding, (3, 5), 1, "bicubic", "x")
    patches = resample_positions(embedding[:, 1:], (3, 5), 0, "bicubic", "x")
    assert np.array_equal(patches, whole[:, 1:])


def test_positions_of_no_square_are_refused():
    with pytest.raises(InputError, match="48 patches, which is not a square grid"):
        resample_positions(position_embedding(7)[:, :-1], (3, 3), 1, "bicubic", "x")


# --- channels -----------------------------------------------------------------------------------


def test_a_grey_image_gives_what_its_three_equal_channels_gave(weights_file):
    name, path = weights_file
    model, variables, _ = tljax.load(name, path, num_classes=0)
    grey_model, grey_variables, preprocessing = tljax.load(name, path, num_classes=0, in_channels=1)
    assert len(preprocessing.mean) == 1
    x = random_images(2, 32, 32, 1)
    expected = model.apply(variables, jnp.tile(x, (1, 1, 1, 3)))
    grey = grey_model.apply(grey_variables, x)
    np.testing.assert_allclose(grey, expected, rtol=0, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
    ("channels", "taken"), [(2, [0, 1]), (4, [0, 1, 2, 0]), (7, [0, 1, 2, 0, 1, 2, 0])]
)
def test_other_channels_repeat_the_three_and_keep_their_size(channels, taken):
    """As timm's `adapt_input_conv` does."""
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 8)).astype(np.float32)
    expected = kernel[:, :, taken] * (3 / channels)
    np.testing.assert_allclose(adapt_channels(kernel, channels), expected, rtol=1e-6)
    assert adapt_channels(kernel, channels).dtype == np.float32


# --- depth --------------------------------------------------------------------------------------


def test_a_truncated_resnet_pools_the_maps_at_the_cut(tmp_path):
    path, model = tmp_path / "weights.safetensors", create(RESNET, 10)
    save_file(rules.unconvert(TLJAX, model, draw_all(model, 32)), path)
    model, variables, _ = tljax.load(RESNET, path, num_classes=0)
    x = random_images(2, 32, 32, 3)
    for last in model.groups.names[1:-2]:
        short, fewer, _ = tljax.load(RESNET, path, num_classes=0, last_group=last)
        maps = model.apply(variables, x, stop=model.groups.names.index(last) + 1)
        np.testing.assert_allclose(
            short.apply(fewer, x), maps.mean(axis=(1, 2)), rtol=0, atol=1e-5 * jnp.abs(maps).max()
        )


def test_a_truncated_vit_normalises_the_tokens_at_the_cut(tmp_path):
    path, model = tmp_path / "weights.safetensors", create(VIT, 10)
    save_file(rules.unconvert(TLJAX, model, draw_all(model, 32)), path)
    model, variables, _ = tljax.load(VIT, path, num_classes=0)
    norm = variables["params"]["norm"]
    x = random_images(2, 32, 32, 3)
    for last in model.groups.names[1:-2]:
        short, fewer, _ = tljax.load(VIT, path, num_classes=0, last_group=last)
        token = model.apply(variables, x, stop=model.groups.names.index(last) + 1)[:, 0]
        centred = token - token.mean(axis=1, keepdims=True)
        expected = centred / token.std(axis=1, keepdims=True) * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(short.apply(fewer, x), expected, rtol=0, atol=1e-4)


# --- the head -----------------------------------------------------------------------------------


def test_the_old_head_is_kept_or_a_new_one_is_zero(weights_file):
    name, path = weights_file
    drawn = draw_all(create(name, 10), 32)
    kept, variables, _ = tljax.load(name, path, num_classes=None)
    assert kept.num_classes == 10
    for leaf in ("kernel", "bias"):
        assert np.array_equal(variables["params"]["head"][leaf], drawn[f"head/{leaf}"])
    for num_classes in (3, 10):  # 10: possibly other classes
        new, variables, _ = tljax.load(name, path, num_classes=num_classes)
        assert new.num_classes == num_classes
        assert not any(np.any(leaf) for leaf in variables["params"]["head"].values())
