"""Activations of torchvision's ResNets."""

from typing import Any

import numpy as np
import torch
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from tljax.models import ImageSize, create


@torch.no_grad()
def outputs(
    model_name: str,
    fields: dict[str, Any],
    size: ImageSize,
    tensors: dict[str, np.ndarray],
    images: np.ndarray,
) -> list[np.ndarray]:
    """Returns the output of each of our groups, computed by torchvision.

    Args:
      model_name, fields: our model, with ten classes.
      size: image size.
      tensors: by torchvision's names.
      images: normalised (n, h, w, 3).
    """
    ours = create(model_name, 10, **fields)
    block = Bottleneck if ours.bottleneck else BasicBlock
    module = ResNet(block, list(ours.stage_sizes), num_classes=10)
    load(module, tensors)
    x = to_torch(images)
    return group_outputs(module, module.relu(module.bn1(module.conv1(x))))


def group_outputs(module: torch.nn.Module, stem: torch.Tensor) -> list[np.ndarray]:
    """Outputs from the unpooled stem on; torchvision and timm name the parts alike."""
    x = module.maxpool(stem)
    found = [x]
    for stage in (module.layer1, module.layer2, module.layer3, module.layer4):
        for block in stage:
            x = block(x)
            found.append(x)
    found[-1] = x.mean((2, 3))
    return [to_numpy(x) for x in (*found, module.fc(found[-1]))]


def load(module: torch.nn.Module, tensors: dict[str, np.ndarray]) -> None:
    """Loads all of a module's weights; PyTorch's batch counters keep their values."""
    counters = {
        name: value for name, value in module.state_dict().items() if "num_batches_tracked" in name
    }
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    module.load_state_dict({**state, **counters}, strict=True)
    module.eval()


def to_torch(images: np.ndarray) -> torch.Tensor:
    """(n, h, w, c) to (n, c, h, w)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """Features unchanged; maps from (n, c, h, w) to (n, h, w, c)."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().numpy()
