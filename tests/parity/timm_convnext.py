"""Activations of timm's ConvNeXts."""

from typing import Any

import numpy as np
import torch
from timm.models.convnext import ConvNeXt, checkpoint_filter_fn

from tests.parity.torchvision_resnet import to_numpy, to_torch
from tljax.models import ImageSize, create


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
    module = ConvNeXt(
        num_classes=10,
        depths=ours.stage_sizes,
        dims=ours.widths,
        patch_size=ours.patch,
        ls_init_value=ours.layer_scale,
        use_grn=ours.response_norm,
    )
    state = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in tensors.items()}
    module.load_state_dict(checkpoint_filter_fn(state, module), strict=True)
    module.eval()
    x = module.stem(to_torch(images))
    found = [x]
    for stage in module.stages:
        x = stage.downsample(x)
        for block in stage.blocks:
            x = block(x)
            found.append(x)
    found[-1] = module.forward_head(x, pre_logits=True)
    return [to_numpy(x) for x in (*found, module.forward_head(x))]
