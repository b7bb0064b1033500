"""Activations of Keras Applications' ResNets and ResNetV2s.

`python -m tests.parity.keras_resnet` compares ours with them, and reads files that Keras writes.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import keras
import numpy as np
from keras.src.applications import resnet

from tljax.models import ResNet, create


def outputs(
    model_name: str,
    fields: dict[str, Any],
    size: int,
    tensors: dict[str, np.ndarray],
    images: np.ndarray,
) -> list[np.ndarray]:
    """Returns the output of each of our groups, computed by Keras.

    Args:
      model_name, fields: our model, with ten classes.
      size: image size.
      tensors: by layers' names, or by Keras 3's numbers, which Keras reads from a file.
      images: normalised (n, size, size, 3), RGB.
    """
    ours = create(model_name, 10, **fields)
    network = build(model_name, fields, size)
    fill(network, tensors)
    names = [
        f"conv{s}_block{b + 1}_out"
        for s, blocks in enumerate(ours.stage_sizes, start=2)
        for b in range(blocks)
    ]
    taps = ["pool1_pool", *names[:-1], "avg_pool", "predictions"]
    tapped = keras.Model(network.inputs, [network.get_layer(name).output for name in taps])
    blue_first = isinstance(ours, ResNet)
    return [np.asarray(x) for x in tapped(images[..., ::-1] if blue_first else images)]


def build(model_name: str, fields: dict[str, Any], size: int) -> keras.Model:
    """Keras' network of our model's name, or one of Keras' own blocks for other stages."""
    common = {
        "weights": None,
        "input_shape": (size, size, 3),
        "classes": 10,
        "classifier_activation": None,
    }
    if not fields:
        kind = model_name.removeprefix("keras_").replace("resnet", "ResNet").replace("v2", "V2")
        return getattr(keras.applications, kind)(**common)
    ours = create(model_name, 10, **fields)
    v1 = isinstance(ours, ResNet)
    unstrided = 0 if v1 else len(ours.stage_sizes) - 1
    stack = resnet.stack_residual_blocks_v1 if v1 else resnet.stack_residual_blocks_v2

    def stages(x: Any) -> Any:
        for s, (width, blocks) in enumerate(zip(ours.widths, ours.stage_sizes, strict=True)):
            stride = 1 if s == unstrided else 2
            x = stack(x, width, blocks, stride1=stride, name=f"conv{s + 2}")
        return x

    return resnet.ResNet(stages, preact=not v1, use_bias=True, weights_name=None, **common)


def fill(network: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Sets the network's weights; each tensor has to be used."""
    if "layers/conv2d/vars/0" in tensors:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "keras.weights.h5"
            with h5py.File(path, "w") as file:
                for name, array in tensors.items():
                    file[name] = array
            network.load_weights(path)
        return
    used = set()
    for layer in network.layers:
        for variable in layer.weights:
            name = f"{layer.name}/{layer.name}/{variable.name}"
            variable.assign(tensors[name])
            used.add(name)
    assert used == tensors.keys(), used ^ tensors.keys()


def check_written_files(model_name: str, fields: dict[str, Any], size: int) -> None:
    """Checks that Keras' files of both layouts, written after a step, give the same numbers."""
    from tests.reference_weights import draw
    from tljax.models import tracing
    from tljax.weights import rules
    from tljax.weights.families.keras import KERAS, KERAS_3
    from tljax.weights.read import read

    ours = create(model_name, 10, **fields)
    abstract = rules.flatten(tracing.abstract_variables(ours, size))
    shapes = {path: leaf.shape for path, leaf in abstract.items()}
    drawn = {path: draw(path, shape) for path, shape in shapes.items()}
    network = build(model_name, fields, size)
    network.compile(keras.optimizers.Adam(0.0), "mse", metrics=["mae"])
    network.train_on_batch(np.zeros((2, size, size, 3)), np.zeros((2, 10)))
    fill(network, rules.unconvert(KERAS, ours, drawn))
    with tempfile.TemporaryDirectory() as folder:
        named, numbered = Path(folder) / "whole.h5", Path(folder) / "keras3.weights.h5"
        network.save(named)
        network.save_weights(numbered)
        for family, path in ((KERAS, named), (KERAS_3, numbered)):
            tensors = read(path).tensors
            found = rules.convert(family, ours, shapes, tensors, path.name)
            assert all(np.array_equal(found[name], drawn[name]) for name in drawn)
            print(f"{model_name}: {path.name}, {len(tensors)} tensors, ours are bit-identical")
