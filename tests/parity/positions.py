"""Position embeddings as the families' own code resamples them."""

from collections.abc import Callable

import numpy as np
import torch
import transformers
from timm.layers import resample_abs_pos_embed
from transformers.models.dinov2 import modeling_dinov2
from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers
from transformers.models.vit import modeling_vit

from tests.parity.google_vit import interpolate
from tests.reference_cases import position_embedding

Grid = tuple[int, int]

_PATCH = 4


def _timm(embedding: np.ndarray, grid: Grid) -> np.ndarray:
    return resample_abs_pos_embed(torch.from_numpy(embedding), list(grid)).numpy()


def _transformers(config: type, embeddings: type) -> Callable[[np.ndarray, Grid], np.ndarray]:
    def resampled(embedding: np.ndarray, grid: Grid) -> np.ndarray:
        side, dim = round((embedding.shape[1] - 1) ** 0.5), embedding.shape[2]
        module = embeddings(
            config(
                hidden_size=dim, num_attention_heads=1, image_size=side * _PATCH, patch_size=_PATCH
            )
        )
        module.position_embeddings.data = torch.from_numpy(embedding)
        tokens = torch.zeros(1, 1 + grid[0] * grid[1], dim)
        found = module.interpolate_pos_encoding(tokens, grid[0] * _PATCH, grid[1] * _PATCH)
        return found.detach().numpy()

    return resampled


_ORIGINALS: dict[str, Callable[[np.ndarray, Grid], np.ndarray]] = {
    "timm": _timm,
    "ViT": _transformers(transformers.ViTConfig, modeling_vit.ViTEmbeddings),
    "Dinov2": _transformers(transformers.Dinov2Config, modeling_dinov2.Dinov2Embeddings),
    "Dinov2WithRegisters": _transformers(
        transformers.Dinov2WithRegistersConfig,
        modeling_dinov2_with_registers.Dinov2WithRegistersEmbeddings,
    ),
    "Google": lambda embedding, grid: interpolate(embedding, grid, class_token=True),
}


def resampled(original: str, side: int, grid: Grid) -> np.ndarray:
    """`position_embedding(side)` on another grid, (1, 1 + rows * columns, d)."""
    return _ORIGINALS[original](position_embedding(side), grid)
