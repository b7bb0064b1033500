"""The published DINOv2-S/14 against its authors' network: features of four images."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

import tljax

FOLDER = os.environ.get("TLJAX_CHECKPOINTS")
WEIGHTS, REFERENCE = "dinov2_small_hf.safetensors", "dinov2_small_reference_224.npz"

pytestmark = pytest.mark.skipif(
    not FOLDER, reason=f"set TLJAX_CHECKPOINTS to the folder of {WEIGHTS} and {REFERENCE}"
)


def test_features_of_the_published_weights():
    folder = Path(str(FOLDER))
    expected = np.load(folder / REFERENCE)
    model, variables, _ = tljax.load(
        "vit_small_patch14_dinov2",
        folder / WEIGHTS,
        num_classes=0,
        image_size=224,
        pooling="none",
    )
    with jax.default_matmul_precision("float32"):
        tokens = np.asarray(jax.jit(model.apply)(variables, expected["images"]))
    np.testing.assert_allclose(tokens[:, 0], expected["cls"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(
        tokens[:, 1:].mean(axis=1), expected["patch_mean"], rtol=0, atol=1e-3
    )
