"""Activations of timm's EfficientNets and MobileNets."""

from typing import Any

import numpy as np
import timm
import torch

from tests.parity.torchvision_resnet import to_numpy, to_torch
from tljax.models import ImageSize


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
      model_name: also timm's name.
      fields: none.
      size: image size.
      tensors: by timm's names.
      images: normalised (n, h, w, 3).
    """
    assert not fields
    module = timm.create_model(model_name, num_classes=10)
    state = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in tensors.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    module.eval()
    x = module.bn1(module.conv_stem(to_torch(images)))
    found = [x]
    for stage in module.blocks:
        for block in stage:
            x = block(x)
            found.append(x)
    whole = module.forward_features(to_torch(images))
    found[-1] = module.forward_head(whole, pre_logits=True)
    return [to_numpy(x) for x in (*found, module.forward_head(whole))]
