"""The model card of an exported network: how to load it in PyTorch and how it was made."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from tljax.errors import printable
from tljax.models import ConvNeXt, EfficientNet, Model, Preprocessing, ResNet, ViT, registry
from tljax.weights.loading import PretrainedWeights

# Networks of tljax that timm does not have under any name.
_NAMELESS_IN_TIMM = {
    "vit_tiny_patch8_224",
    "vit_tiny_patch14_224",
    "vit_tiny_patch32_224",
    "vit_tiny_patch32_384",
    "vit_small_patch14_224",
    "vit_base_patch14_224",
    "vit_large_patch8_224",
    "vit_micro_patch4_32",
    "convnext_micro_32",
    "mobilenetv3_micro_32",
}


@dataclass(frozen=True)
class Export:
    """A network to export to PyTorch.

    Attributes:
      name: of the model, e.g. `resnet50`.
      model: the Linen module; its head may have another size than that of the weights.
      weights: its weights, under our names.
      preprocessing: of its images.
      class_names: in the order of the logits; None if unknown.
      tables: further facts for the card, as JSON can hold them: heading -> {row: value}.
    """

    name: str
    model: Model
    weights: PretrainedWeights
    preprocessing: Preprocessing
    class_names: Sequence[str] | None = None
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def model_card(export: Export, format: str, file_name: str) -> str:
    """Returns the card's text, in Markdown.

    Args:
      export: the exported network.
      format: `timm` or `torchvision`, whose names the file uses.
      file_name: of the weights, in the same folder.
    """
    preprocessing = export.preprocessing
    height, width = preprocessing.height_width
    covered = [round(side / preprocessing.crop_ratio) for side in (height, width)]
    images = {
        "resize": f"aspect kept, to just cover {covered[0]} x {covered[1]} (height x width),"
        f" {preprocessing.interpolation}",
        "crop": f"the central {height} x {width}",
        "scale": f"{_kind(preprocessing)} bytes / 255, less the mean, divided by the deviation",
        "mean": " ".join(f"{value:g}" for value in preprocessing.mean),
        "deviation": " ".join(f"{value:g}" for value in preprocessing.std),
    }
    lines = [
        f"# {export.name}, {export.weights.num_classes or 'no'} classes",
        "",
        f"Weights in {_code(file_name)}, under {format}'s names; written by tljax"
        f" {metadata.version('tljax')}.",
        "",
        *_loading(export, format, file_name),
        *_table("Images", images),
        *_classes(export),
    ]
    for heading, rows in export.tables.items():
        lines += _table(heading, rows)
    return "\n".join(lines)


def _kind(preprocessing: Preprocessing) -> str:
    """What the bytes of an image are."""
    return "RGB" if preprocessing.channels == 3 else f"{preprocessing.channels}-channel"


def constructor(export: Export, format: str) -> list[str] | None:
    """Returns lines of Python that make `model`, the network in PyTorch; None if none can."""
    if format == "torchvision":
        return _torchvision(export)
    arguments: dict[str, Any] = {"num_classes": export.weights.num_classes}
    if len(export.preprocessing.mean) != 3:
        arguments["in_chans"] = len(export.preprocessing.mean)
    name, model = export.name, export.model
    if isinstance(model, ResNet):
        if _is_usual(model):
            if not _is_whole(export):
                arguments["layers"] = model.stage_sizes
            return _timm(name, arguments)
        return _small_resnet(model, arguments)
    if isinstance(model, ViT):
        if model.rotary is not None:
            arguments["global_pool"] = "token"  # as here; timm's own is the patches' mean
        arguments["img_size"] = export.preprocessing.image_size
        if name in _NAMELESS_IN_TIMM:
            name = (
                "vit_tiny_patch16_224"  # any name would do: all that distinguishes it is overridden
            )
            arguments |= {
                "patch_size": model.patch,
                "embed_dim": model.dim,
                "num_heads": model.heads,
            }
        if name != export.name or not _is_whole(export):
            arguments["depth"] = model.depth
    if isinstance(model, EfficientNet) and name in _NAMELESS_IN_TIMM:
        return None
    if isinstance(model, ConvNeXt):
        arguments["conv_mlp"] = False  # which timm's smallest have, with other shapes
        if name in _NAMELESS_IN_TIMM:
            name = "convnextv2_atto"
            arguments |= {"depths": model.stage_sizes, "dims": model.widths}
            arguments["patch_size"] = model.patch
    return _timm(name, arguments)


def _timm(name: str, arguments: Mapping[str, Any]) -> list[str]:
    return ["import timm", "", f"model = timm.create_model({name!r}, {_call(arguments)})"]


def _torchvision(export: Export) -> list[str] | None:
    usual = isinstance(export.model, ResNet) and _is_usual(export.model) and _is_whole(export)
    if not usual or len(export.preprocessing.mean) != 3:
        return None
    classes = export.weights.num_classes
    build = (
        f"model = torchvision.models.{export.name}({f'num_classes={classes}' if classes else ''})"
    )
    if classes:
        return ["import torchvision", "", build]
    return ["import torch", "import torchvision", "", build, "model.fc = torch.nn.Identity()"]


def _small_resnet(model: ResNet, arguments: dict[str, Any]) -> list[str] | None:
    """A ResNet for small images: timm's, with its stem and first block replaced."""
    if model.bottleneck or model.stem_pool or len(model.stage_sizes) != 4:
        return None
    (kernel, stride), width = model.stem, model.widths[0]
    channels = arguments.get("in_chans", 3)
    arguments |= {"layers": model.stage_sizes, "channels": model.widths}
    return [
        "import torch",
        "from timm.models.resnet import BasicBlock, ResNet",
        "",
        f"model = ResNet(BasicBlock, {_call(arguments)})",
        f"model.conv1 = torch.nn.Conv2d({channels}, {width}, {kernel}, stride={stride},"
        f" padding={kernel // 2}, bias=False)",
        f"model.bn1 = torch.nn.BatchNorm2d({width})",
        "model.maxpool = torch.nn.Identity()",
        f"model.layer1[0] = BasicBlock({width}, {width})",
    ]


def _is_usual(model: ResNet) -> bool:
    """Whether the stem and the four widths are those of timm's and torchvision's ResNets."""
    usual = registry.create("resnet18", model.num_classes)
    return (model.stem, model.stem_pool, model.widths) == (
        usual.stem,
        usual.stem_pool,
        usual.widths,
    )


def _is_whole(export: Export) -> bool:
    """Whether the model has all blocks, i.e. is not truncated."""
    whole = registry.create(export.name, num_classes=0)
    return export.model.groups.names == whole.groups.names


def _call(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _loading(export: Export, format: str, file_name: str) -> list[str]:
    lines = constructor(export, format)
    if lines is None:
        return [
            f"{format} has no function that builds this network: a program that loads the file has"
            " to define it.",
            "",
        ]
    border = lines.index("")
    imports = [*lines[:border], "from safetensors.torch import load_file"]
    return [
        "```python",
        *sorted(imports, key=lambda line: (line.startswith("from"), line)),
        *lines[border:],
        f"model.load_state_dict(load_file({json.dumps(file_name)}), strict=True)",
        "model.eval()",
        "```",
        "",
    ]


def _classes(export: Export) -> list[str]:
    if export.class_names is None:
        return []
    names = [f"{index}. {_code(name)}" for index, name in enumerate(export.class_names)]
    return ["## Classes, in the order of the logits", "", *names, ""]


def _table(heading: str, rows: Mapping[str, Any]) -> list[str]:
    cells = [f"| {label} | {_cell(value)} |" for label, value in rows.items()]
    return [f"## {heading}", "", "| | |", "|---|---|", *cells, ""] if rows else []


def _cell(value: Any) -> str:
    """Text for a table, with HTML and the cell separator escaped."""
    return printable(value).replace("<", "&lt;").replace("|", r"\|")


def _code(text: str) -> str:
    """Inline code; the text may contain backticks and line ends."""
    text = printable(text)
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (1 + max(len(run) for run in re.findall("`+", text)))
    return f"{fence} {text} {fence}"
