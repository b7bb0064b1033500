"""Activations of timm's DINOv3 ViTs, with the class token as the features."""

import functools
from typing import Any

import numpy as np
import torch
from timm.models.eva import Eva, checkpoint_filter_fn

from tests.parity.torchvision_resnet import to_torch
from tljax.models import ImageSize, create
from tljax.models.preprocessing import height_width


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
      tensors: by timm's names, or by the authors', which timm's own code renames.
      images: normalised (n, h, w, 3).
    """
    ours = create(model_name, 10, **fields)
    module = Eva(
        img_size=height_width(size),
        patch_size=ours.patch,
        num_classes=10,
        global_pool="token",
        embed_dim=ours.dim,
        depth=ours.depth,
        num_heads=ours.heads,
        qkv_bias=ours.qkv_bias == "query_value",
        init_values=ours.layer_scale,
        rope_type="dinov3",
        rope_temperature=ours.rotary,
        rope_rotate_half=True,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        num_reg_tokens=ours.registers,
        use_fc_norm=False,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=ours.layer_norm_eps),
        swiglu_mlp=ours.gated,
        swiglu_align_to=8 if ours.gated else 0,
    )
    state = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in tensors.items()}
    module.load_state_dict(checkpoint_filter_fn(state, module), strict=True)
    module.eval()
    x = module.patch_embed(to_torch(images))
    x, rope = module._pos_embed(x)
    found = [x]
    for block in module.blocks:
        x = block(x, rope=rope)
        found.append(x)
    found[-1] = module.norm(x)[:, 0]
    return [x.numpy() for x in (*found, module.head(found[-1]))]
