"""Activations of timm's Vision Transformers."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from tests.parity.torchvision_resnet import to_torch
from tljax.models import ImageSize, ViT, create


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
      tensors: by timm's names, or DINOv2's authors'; with position embeddings for any square
        grid, which timm's own code resamples.
      images: normalised (n, h, w, 3).
    """
    module = build(create(model_name, 10, **fields), size)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    if "register_tokens" in state:
        # The authors' files have one; timm recognises the files by it.
        state["mask_token"] = torch.zeros(1, module.embed_dim)
    if any(name.startswith("MAPHead_0") for name in tensors):
        _load_siglip(module, tensors)
    else:
        module.load_state_dict(checkpoint_filter_fn(state, module), strict=True)
    return group_outputs(module, images)


def build(ours: ViT, size: ImageSize, **arguments: Any) -> VisionTransformer:
    """timm's network with the architecture of ours."""
    return VisionTransformer(
        img_size=size,
        patch_size=ours.patch,
        num_classes=10,
        global_pool={"token": "token", "mean": "avg", "attention": "map"}[ours.pooling],
        class_token=ours.class_token,
        pre_norm=ours.pre_norm,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=ours.layer_norm_eps),
        act_layer=ours.activation,
        embed_dim=ours.dim,
        depth=ours.depth,
        num_heads=ours.heads,
        init_values=ours.layer_scale,
        reg_tokens=ours.registers,
        **{"no_embed_class": ours.registers > 0, **arguments},
    )


def _load_siglip(module: VisionTransformer, tensors: dict[str, np.ndarray]) -> None:
    """Reads big_vision's tensors from a file, as timm does."""
    with tempfile.TemporaryDirectory() as folder:
        named = {f"params/img/{name}": array for name, array in tensors.items()}
        np.savez(Path(folder) / "siglip.npz", **named)
        module.load_pretrained(str(Path(folder) / "siglip.npz"))


def group_outputs(module: VisionTransformer, images: np.ndarray) -> list[np.ndarray]:
    module.eval()
    x = module.norm_pre(module._pos_embed(module.patch_embed(to_torch(images))))
    found = [x]
    for block in module.blocks:
        x = block(x)
        found.append(x)
    found[-1] = module.forward_head(module.norm(x), pre_logits=True)
    return [x.numpy() for x in (*found, module.head(found[-1]))]
