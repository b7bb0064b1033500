"""Activations of Google's Vision Transformers, as timm reads and computes them.

timm's loader reads a real `.npz`. It resamples position embeddings in its own way, so they are
resampled to its grid beforehand, as Google's code does it.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch

from tests.parity.timm_vit import build, group_outputs
from tljax.models import ImageSize, create
from tljax.models.preprocessing import height_width

_POSITIONS = "Transformer/posembed_input/pos_embedding"
_BIG_VISION_POSITIONS = "pos_embedding"


@torch.no_grad()
def outputs(
    model_name: str,
    fields: dict[str, Any],
    size: ImageSize,
    tensors: dict[str, np.ndarray],
    images: np.ndarray,
) -> list[np.ndarray]:
    """Returns the output of each of our groups, computed by timm.

    Args:
      model_name, fields: our model, with ten classes.
      size: image size.
      tensors: by the names of google-research/vision_transformer, or of big_vision; with
        position embeddings for any square grid.
      images: normalised (n, h, w, 3).
    """
    ours = create(model_name, 10, **fields)
    big_vision = _BIG_VISION_POSITIONS in tensors
    name = _BIG_VISION_POSITIONS if big_vision else _POSITIONS
    grid = tuple(side // ours.patch for side in height_width(size))
    resampled = {**tensors, name: interpolate(tensors[name], grid, not big_vision)}
    module = build(ours, size, no_embed_class=big_vision)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit.npz"
        np.savez(path, **resampled)
        module.load_pretrained(str(path))
    return group_outputs(module, images)


def interpolate(embedding: np.ndarray, grid: tuple[int, int], class_token: bool) -> np.ndarray:
    """google-research/vision_transformer, `vit_jax/checkpoint.py::interpolate_posembed`.

    A copy of that function, except that the new grid may be oblong.
    """
    if class_token:
        posemb_tok, posemb_grid = embedding[:, :1], embedding[0, 1:]
    else:
        posemb_tok, posemb_grid = embedding[:, :0], embedding[0, 0:]
    if posemb_grid.shape[0] == grid[0] * grid[1] and grid[0] == grid[1]:
        return embedding
    gs_old = int(np.sqrt(len(posemb_grid)))
    posemb_grid = posemb_grid.reshape(gs_old, gs_old, -1)
    zoom = (grid[0] / gs_old, grid[1] / gs_old, 1)
    posemb_grid = scipy.ndimage.zoom(posemb_grid, zoom, order=1)
    posemb_grid = posemb_grid.reshape(1, grid[0] * grid[1], -1)
    return np.concatenate([posemb_tok, posemb_grid], axis=1)
