"""Activations of timm's Vision Transformers."""

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
    module.load_state_dict(checkpoint_filter_fn(state, module), strict=True)
    return group_outputs(module, images)


def build(ours: ViT, size: ImageSize, **arguments: Any) -> VisionTransformer:
    """timm's network with the architecture of ours."""
    return VisionTransformer(
        img_size=size,
        patch_size=ours.patch,
        num_classes=10,
        global_pool={"token": "token", "mean": "avg"}[ours.pooling],
        embed_dim=ours.dim,
        depth=ours.depth,
        num_heads=ours.heads,
        init_values=ours.layer_scale,
        reg_tokens=ours.registers,
        **{"no_embed_class": ours.registers > 0, **arguments},
    )


def group_outputs(module: VisionTransformer, images: np.ndarray) -> list[np.ndarray]:
    module.eval()
    x = module._pos_embed(module.patch_embed(to_torch(images)))
    found = [x]
    for block in module.blocks:
        x = block(x)
        found.append(x)
    found[-1] = module.forward_head(module.norm(x), pre_logits=True)
    return [x.numpy() for x in (*found, module.head(found[-1]))]
