"""What all networks of this package share: the type, pooled features and a count of parameters."""

import functools
from typing import Any

import jax

from tljax.models.convnext import ConvNeXt
from tljax.models.efficientnet import EfficientNet
from tljax.models.resnet import ResNet
from tljax.models.resnet_v2 import ResNetV2
from tljax.models.vit import ViT

Model = ResNet | ResNetV2 | ViT | ConvNeXt | EfficientNet


@functools.partial(jax.jit, static_argnums=0)
def features(model: Model, variables: dict[str, Any], images: jax.Array) -> jax.Array:
    """The input of the head: one vector per image.

        model, variables, preprocessing = tljax.load("resnet18", num_classes=0)
        pooled = tljax.features(model, variables, images)  # (n, 512)

    Args:
      model: from `tljax.create` or `tljax.load`.
      variables: {"params": ..., "batch_stats": ...} of the model.
      images: normalised images (n, h, w, channels).

    Returns:
      (n, d) float32.
    """
    result: Any = model.apply(variables, images, train=False, stop=len(model.groups) - 1)
    return result


def parameter_count(params: Any) -> int:
    """Number of scalars in a tree of arrays or of abstract arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
