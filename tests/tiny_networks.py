"""Networks of one block, for laws that need no depth: their programs compile in half the time."""

import functools

import jax

from tljax.data import Preprocessing
from tljax.models import ResNet, ViT, init

PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
NETWORKS = {  # one draws random numbers in every step, the other has BatchNorm
    "resnet": ResNet((1,), (8,), bottleneck=False, num_classes=10, stem=(3, 2), stem_pool=False),
    "vit": ViT(32, 1, 2, 4, num_classes=10, dropout=0.1),
}


@functools.cache
def network(name):
    """A model and its variables."""
    model = NETWORKS[name]
    return model, init(model, jax.random.key(0), 16)
