"""Activations of timm's ResNets, whose tensors have torchvision's names."""

from typing import Any

import numpy as np
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

from tests.parity.torchvision_resnet import group_outputs, load, to_torch
from tljax.models import ImageSize, create


@torch.no_grad()
def outputs(
    model_name: str,
    fields: dict[str, Any],
    size: ImageSize,
    tensors: dict[str, np.ndarray],
    images: np.ndarray,
) -> list[np.ndarray]:
    """The output of each of our groups, computed by timm; see `torchvision_resnet.outputs`."""
    ours = create(model_name, 10, **fields)
    module = ResNet(
        Bottleneck if ours.bottleneck else BasicBlock,
        layers=list(ours.stage_sizes),
        channels=ours.widths,
        num_classes=10,
    )
    load(module, tensors)
    return group_outputs(module, module.act1(module.bn1(module.conv1(to_torch(images)))))
