"""Keras 3 on JAX, frozen as in its guide: `trainable = False`, `training=False`.

The guide is https://keras.io/guides/transfer_learning/. ResNet-50 is Keras Applications' own. It
strides in the first 1x1 convolution of a block and so computes 7 % less than the others'. The other
two networks are built of Keras' layers. Weights are random, which does not change the time.
"""

import os
import time
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
from keras import layers

from benchmarks import jobs
from benchmarks.jobs import Job, Network
from benchmarks.timing import median_seconds, time_call
from tljax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD


def job(job: Job, folder: Path, epochs: int, images: int | None = None) -> dict[str, Any]:
    """Times the job's first `epochs` epochs; `epoch_seconds` has the time of each.

    `images`: how many to train on instead of the job's.
    """
    pixels, labels = jobs.make_images(job.network.pixels, images or job.images)
    stages = build(job.network)
    model = assemble(stages, job)
    clock = _Clock()

    def train() -> Any:
        compile_model(model, job)
        return model.fit(
            pixels, labels, batch_size=jobs.BATCH, epochs=epochs, verbose=0, callbacks=[clock]
        )

    seconds, history = time_call(train)
    return {
        "seconds": seconds,
        "epochs": epochs,
        "epoch_seconds": clock.seconds,
        "loss": history.history["loss"][-1],
    }


def forward(network: Network, folder: Path, batch: int) -> dict[str, float]:
    """Seconds to classify a batch."""
    model = assemble(build(network), Job(network, "feature_extraction", batch, 1))
    images, _ = jobs.make_images(network.pixels, batch)
    return {"seconds": median_seconds(lambda: model.predict_on_batch(images))}


def step(network: Network, folder: Path, batch: int, scenario: str) -> dict[str, float]:
    """Seconds of one training step, from images."""
    job = Job(network, scenario, batch, 1)
    model = assemble(build(network), job)
    compile_model(model, job)
    images, labels = jobs.make_images(network.pixels, batch)
    return {"seconds": median_seconds(lambda: float(model.train_on_batch(images, labels)))}


def compile_model(model: keras.Model, job: Job) -> None:
    """Compiles with the job's optimizer. Keras has one learning rate for all layers."""
    fine = jobs.BACKBONE_RATE if job.scenario == "fine_tune" else 1.0
    model.compile(
        optimizer=keras.optimizers.SGD(fine * jobs.LEARNING_RATE, momentum=jobs.MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def assemble(base: keras.Model, job: Job) -> keras.Model:
    """Normalisation, the network without its head, frozen for the job, and a new head."""
    frozen = {
        "feature_extraction": len(base.layers),
        "freeze_first": _first_trained_layer(base, job),
    }
    number = frozen.get(job.scenario, 0)
    for layer in base.layers[:number]:
        layer.trainable = False  # BatchNorm then runs on its stored statistics
    whole = job.scenario == "feature_extraction"
    inputs = keras.Input((job.network.pixels, job.network.pixels, 3))
    variance = [deviation**2 for deviation in IMAGENET_STD]
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Normalization(mean=IMAGENET_MEAN, variance=variance)(x)
    x = base(x, training=False) if whole else base(x)
    return keras.Model(inputs, layers.Dense(jobs.CLASSES, kernel_initializer="zeros")(x))


def build(network: Network) -> keras.Model:
    """The network without its head."""
    if network.name == "resnet50":
        return keras.applications.ResNet50(
            weights=None, include_top=False, pooling="avg", input_shape=(network.pixels,) * 2 + (3,)
        )
    inputs = keras.Input((network.pixels, network.pixels, 3))
    outputs = _vit(inputs) if "vit" in network.name else _resnet10(inputs)
    return keras.Model(inputs, outputs)


def _first_trained_layer(base: keras.Model, job: Job) -> int:
    """Index of the first layer that S2 trains."""
    mark = {
        "vit_small_patch14_dinov2": f"block{job.network.k - 1}_",
        "resnet50": "conv5_block1_",
        "resnet10_32": f"block{job.network.k - 1}_",
    }[job.network.name]
    return next(i for i, layer in enumerate(base.layers) if layer.name.startswith(mark))


def _vit(inputs: Any) -> Any:
    """DINOv2's ViT-S/14: 12 blocks of width 384 with LayerScale."""
    x = layers.Conv2D(384, 14, strides=14, name="patch")(inputs)
    x = layers.Reshape((-1, 384))(x)
    x = _Positions(name="positions")(x)
    for b in range(12):

        def layer_name(part: str, b: int = b) -> str:
            return f"block{b}_{part}"

        y = layers.LayerNormalization(epsilon=1e-6, name=layer_name("norm1"))(x)
        y = layers.MultiHeadAttention(6, 64, name=layer_name("attn"))(y, y)
        x = layers.Add(name=layer_name("add1"))([x, _LayerScale(name=layer_name("ls1"))(y)])
        y = layers.LayerNormalization(epsilon=1e-6, name=layer_name("norm2"))(x)
        y = layers.Dense(1536, activation="gelu", name=layer_name("fc1"))(y)
        y = layers.Dense(384, name=layer_name("fc2"))(y)
        x = layers.Add(name=layer_name("add2"))([x, _LayerScale(name=layer_name("ls2"))(y)])
    return layers.LayerNormalization(epsilon=1e-6, name="norm")(x)[:, 0]


def _resnet10(inputs: Any) -> Any:
    """Four basic blocks for 32-pixel images."""

    def conv_bn(x: Any, width: int, kernel: int, stride: int, name: str) -> Any:
        padded = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        conv = layers.Conv2D(width, kernel, stride, use_bias=False, name=f"{name}_conv")
        return layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn")(
            conv(padded)
        )

    x = layers.ReLU(name="stem_relu")(conv_bn(inputs, 16, 3, 2, "stem"))
    for b, width in enumerate((16, 32, 64, 128)):
        stride, name = (1 if b == 0 else 2), f"block{b}"
        y = layers.ReLU(name=f"{name}_relu1")(conv_bn(x, width, 3, stride, f"{name}_1"))
        y = conv_bn(y, width, 3, 1, f"{name}_2")
        if b:
            x = conv_bn(x, width, 1, stride, f"{name}_down")
        x = layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, y]))
    return layers.GlobalAveragePooling2D(name="pool")(x)


class _Positions(layers.Layer):
    """A class token before the patches, and a learned position for each."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[-1]), name="positions")

    def call(self, x: Any) -> Any:
        tokens = keras.ops.tile(self.token, (keras.ops.shape(x)[0], 1, 1))
        return keras.ops.concatenate([tokens, x], axis=1) + self.positions


class _LayerScale(layers.Layer):
    """A factor for each channel."""

    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones", name="gamma")

    def call(self, x: Any) -> Any:
        return x * self.gamma


class _Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._began)
