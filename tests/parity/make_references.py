"""Writes tests/references/*.npz: activations of torchvision's and timm's own models.

    pip install '.[parity]' && python tests/parity/make_references.py

The weights are drawn at random from each parameter's path, so that a test can draw the same ones
without PyTorch; BatchNorm statistics are random too, because a fresh mean of 0 and variance of 1
would hide a mistake in them. Kept are the logits and the first numbers of every group's output.
"""

from pathlib import Path

import numpy as np
import timm
import torch
import torchvision

from tests.reference_weights import KEPT, draw, images, path_shapes
from tljax.models import create

FOLDER = Path(__file__).parents[1] / "references"
TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
RESNETS = ("resnet18", "resnet50")
VITS = {"vit_tiny_patch16_224": 64, "vit_small_patch14_dinov2": 56}


def resnet_name(path: str) -> str:
    """torchvision's name of our parameter: `layer1_0/conv1/bn/scale` -> `layer1.0.bn1.weight`."""
    *modules, leaf = path.split("/")
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }.get(leaf, leaf)
    if modules[0] == "head":
        return f"fc.{leaf}"
    if modules[0] == "stem":
        return f"{'conv1' if modules[1] == 'conv' else 'bn1'}.{leaf}"
    stage, unit, kind = modules
    stage = stage.replace("_", ".")
    if unit == "downsample":
        return f"{stage}.downsample.{0 if kind == 'conv' else 1}.{leaf}"
    return f"{stage}.{unit if kind == 'conv' else unit.replace('conv', 'bn')}.{leaf}"


def vit_name(path: str) -> str:
    """timm's name of our parameter: `block3/attn/qkv/kernel` -> `blocks.3.attn.qkv.weight`."""
    *modules, leaf = path.split("/")
    leaf = TORCH_LEAVES.get(leaf, leaf)
    if modules[0] == "embed":
        return f"patch_embed.proj.{leaf}" if len(modules) == 2 else leaf
    modules[0] = modules[0].replace("block", "blocks.") if modules[0] != "head" else "head"
    return ".".join([*modules, leaf])


def to_torch(array: np.ndarray) -> torch.Tensor:
    """From Flax's (h, w, in, out) and (in, out) to PyTorch's (out, in, h, w) and (out, in)."""
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:
        array = array.T
    return torch.from_numpy(np.ascontiguousarray(array))


def load(module: torch.nn.Module, name: str, size: int, rename) -> None:
    state = {rename(path): to_torch(draw(path, shape)) for path, shape in path_shapes(name, size)}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    module.eval()


@torch.no_grad()
def resnet_outputs(name: str, size: int) -> list[torch.Tensor]:
    module = getattr(torchvision.models, name)(num_classes=10)
    load(module, name, size, resnet_name)
    x = torch.from_numpy(images(size)).permute(0, 3, 1, 2)
    x = module.maxpool(module.relu(module.bn1(module.conv1(x))))
    outputs = [x.permute(0, 2, 3, 1)]
    for stage in (module.layer1, module.layer2, module.layer3, module.layer4):
        for block in stage:
            x = block(x)
            outputs.append(x.permute(0, 2, 3, 1))
    outputs[-1] = x.mean((2, 3))
    return [*outputs, module.fc(outputs[-1])]


@torch.no_grad()
def vit_outputs(name: str, size: int) -> list[torch.Tensor]:
    module = timm.create_model(name, num_classes=10, img_size=size)
    load(module, name, size, vit_name)
    x = module._pos_embed(module.patch_embed(torch.from_numpy(images(size)).permute(0, 3, 1, 2)))
    outputs = [x]
    for block in module.blocks:
        x = block(x)
        outputs.append(x)
    outputs[-1] = module.norm(x)[:, 0]
    return [*outputs, module.head(outputs[-1])]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    cases = [(name, 64, resnet_outputs) for name in RESNETS]
    cases += [(name, size, vit_outputs) for name, size in VITS.items()]
    for name, size, outputs_of in cases:
        outputs = outputs_of(name, size)
        assert len(outputs) == len(create(name, 10).groups)
        arrays = {
            f"group{depth}": np.append(
                output.numpy().reshape(len(output), -1)[:, :KEPT].ravel(), output.abs().max()
            ).astype(np.float32)
            for depth, output in enumerate(outputs)
        }
        np.savez_compressed(FOLDER / f"{name}.npz", size=size, **arrays)
        print(f"{name}: {len(outputs)} groups, logits up to {outputs[-1].abs().max():.3f}")


if __name__ == "__main__":
    main()
