"""Activations of timm's Big Transfer ResNets.

`python -m tests.parity.bit` compares ours with them.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2

from tljax.models import create


@torch.no_grad()
def outputs(
    model_name: str,
    fields: dict[str, Any],
    size: int,
    tensors: dict[str, np.ndarray],
    images: np.ndarray,
) -> list[np.ndarray]:
    """Returns the output of each of our groups, computed by timm.

    Args:
      model_name, fields: our model, with ten classes.
      size: image size.
      tensors: by timm's names, or by Google's, which timm's own loader reads from a file.
      images: normalised (n, size, size, 3).
    """
    ours = create(model_name, 10, **fields)
    module = ResNetV2(
        layers=list(ours.stage_sizes),
        channels=tuple(4 * width for width in ours.widths),
        stem_chs=ours.widths[0],
        num_classes=10,
        stem_type="fixed",
        conv_layer=functools.partial(StdConv2d, eps=1e-8),  # as in timm's `resnetv2_*_bit`
    )
    if any(name.startswith("resnet/") for name in tensors):
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "bit.npz", **tensors)
            module.load_pretrained(str(Path(folder) / "bit.npz"))
    else:
        state = {name: torch.from_numpy(array) for name, array in tensors.items()}
        module.load_state_dict(state, strict=True)
    module.eval()
    x = module.stem(torch.from_numpy(images).permute(0, 3, 1, 2))
    found = [x]
    for stage in module.stages:
        for block in stage.blocks:
            x = block(x)
            found.append(x)
    found[-1] = module.forward_head(module.norm(x), pre_logits=True)
    logits = module.forward_head(module.norm(x))
    return [*(_channels_last(x) for x in found), logits.numpy()]


def _channels_last(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy() if x.ndim == 4 else x.numpy()
