"""Keras Applications' ResNets and ResNetV2s: the names of its two HDF5 layouts.

The older layout, used by the published weights, stores tensors under the names of layers. The newer
one, `.weights.h5` of Keras 3, numbers the layers of each class in the order of the model.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tljax.models import ResNet, ResNetV2
from tljax.weights.rules import Family, Rule, Transform, each, same

# For each class of layers: Keras' names of its variables, in Keras' order, and ours.
_VARIABLES = {
    "conv2d": {"kernel": "kernel", "bias": "bias"},
    "batch_normalization": {
        "gamma": "scale",
        "beta": "bias",
        "moving_mean": "mean",
        "moving_variance": "var",
    },
    "dense": {"kernel": "kernel", "bias": "bias"},
}

# V1's networks come from Caffe and expect blue first; ours expect red first.
swap_red_and_blue = each(lambda x: x[:, :, ::-1], lambda x: x[:, :, ::-1])


@dataclass(frozen=True)
class _Layer:
    """A layer with weights.

    Attributes:
      kind: a key of `_VARIABLES`.
      name: Keras' own.
      path: ours.
      kernel: transform of its kernel.
    """

    kind: str
    name: str
    path: str
    kernel: Transform = same


def _layers(model: ResNet | ResNetV2) -> Iterator[_Layer]:
    """The layers in the order of Keras' `model.layers`."""
    preactivated = isinstance(model, ResNetV2)
    yield _Layer("conv2d", "conv1_conv", "stem/conv", same if preactivated else swap_red_and_blue)
    if not preactivated:
        yield _Layer("batch_normalization", "conv1_bn", "stem/bn")
    for s, size in enumerate(model.stage_sizes, start=1):
        for b in range(size):
            names = f"conv{s + 1}_block{b + 1}", f"layer{s}_{b}"
            yield from (_block_v2 if preactivated else _block_v1)(*names, projects=b == 0)
    if preactivated:
        yield _Layer("batch_normalization", "post_bn", "norm")
    yield _Layer("dense", "predictions", "head")


def _block_v1(name: str, path: str, projects: bool) -> Iterator[_Layer]:
    # The shortcut's layers are at the same depth as the third ones, and Keras lists them first.
    for n in (1, 2):
        yield _Layer("conv2d", f"{name}_{n}_conv", f"{path}/conv{n}/conv")
        yield _Layer("batch_normalization", f"{name}_{n}_bn", f"{path}/conv{n}/bn")
    last = [("0", "downsample")] * projects + [("3", "conv3")]
    for kind, suffix in (("conv2d", "conv"), ("batch_normalization", "bn")):
        for number, part in last:
            yield _Layer(kind, f"{name}_{number}_{suffix}", f"{path}/{part}/{suffix}")


def _block_v2(name: str, path: str, projects: bool) -> Iterator[_Layer]:
    yield _Layer("batch_normalization", f"{name}_preact_bn", f"{path}/norm1")
    for n in (1, 2):
        yield _Layer("conv2d", f"{name}_{n}_conv", f"{path}/conv{n}")
        yield _Layer("batch_normalization", f"{name}_{n}_bn", f"{path}/norm{n + 1}")
    if projects:
        yield _Layer("conv2d", f"{name}_0_conv", f"{path}/downsample")
    yield _Layer("conv2d", f"{name}_3_conv", f"{path}/conv3")


def _rules(layer: _Layer, source: str, numbered: bool) -> Iterator[Rule]:
    for n, (theirs, ours) in enumerate(_VARIABLES[layer.kind].items()):
        transform = layer.kernel if ours == "kernel" else same
        yield Rule(f"{source}/{n if numbered else theirs}", f"{layer.path}/{ours}", transform)


def _named_rules(model: Any) -> list[Rule]:
    return [
        rule
        for layer in _layers(model)
        for rule in _rules(layer, f"{layer.name}/{layer.name}", numbered=False)
    ]


def _numbered_rules(model: Any) -> list[Rule]:
    counts: Counter[str] = Counter()
    rules: list[Rule] = []
    for layer in _layers(model):
        number = f"_{counts[layer.kind]}" if counts[layer.kind] else ""
        counts[layer.kind] += 1
        rules += _rules(layer, f"layers/{layer.kind}{number}/vars", numbered=True)
    return rules


def _is_keras(model: Any) -> bool:
    return isinstance(model, ResNet | ResNetV2) and model.conv_bias


KERAS = Family(
    "Keras",
    accepts=_is_keras,
    rules=_named_rules,
    ignored=(r"(optimizer|top_level_model)_weights/.*",),
    spellings=(
        # The group of a layer has its name; the scope of its variables may have another one.
        (r"^(?!optimizer_weights/)([^/]+)/[^/]+/(\w+)(:0)?$", r"\1/\1/\2"),
        (r"^probs/probs/", "predictions/predictions/"),  # the head in the published files
    ),
)

KERAS_3 = Family(
    "Keras 3",
    accepts=_is_keras,
    rules=_numbered_rules,
    ignored=(r"(optimizer|metrics|loss_tracker)/.*", r"seed_generator/.*"),
)
