"""EfficientNets and MobileNets: timm's names.

Layers within a block are called in our networks as in timm's, so that the tables are short.
"""

from typing import Any

from tljax.models import EfficientNet
from tljax.models.efficientnet import BlockSpec
from tljax.weights.families.resnet import batch_norm
from tljax.weights.rules import Family, Rule, convolution, linear


def _timm_rules(model: Any) -> tuple[Rule, ...]:
    theirs, ours = "blocks.{s}.{b}", "stage{s+1}_{b}"
    convolutions = ("conv", "conv_exp", "conv_pw", "conv_dw", "conv_pwl")
    universal = ("dw_start", "pw_exp", "dw_mid", "pw_proj")
    return (
        Rule("conv_stem.weight", "stem/conv/kernel", convolution),
        *batch_norm("bn1", "stem/bn"),
        *(
            Rule(f"{theirs}.{part}.weight", f"{ours}/{part}/kernel", convolution)
            for part in convolutions
        ),
        *batch_norm(f"{theirs}.bn{{n}}", f"{ours}/bn{{n}}"),
        *(
            rule
            for part in ("conv_reduce", "conv_expand")
            for rule in (
                Rule(f"{theirs}.se.{part}.weight", f"{ours}/se/{part}/kernel", convolution),
                Rule(f"{theirs}.se.{part}.bias", f"{ours}/se/{part}/bias"),
            )
        ),
        *(
            rule
            for part in universal
            for rule in (
                Rule(f"{theirs}.{part}.conv.weight", f"{ours}/{part}_conv/kernel", convolution),
                *batch_norm(f"{theirs}.{part}.bn", f"{ours}/{part}_bn"),
            )
        ),
        Rule("conv_head.weight", "conv_head/kernel", convolution),
        Rule("conv_head.bias", "conv_head/bias"),
        *batch_norm("norm_head" if model.head == "pooled_conv_norm" else "bn2", "bn2"),
        Rule("classifier.weight", "head/kernel", linear),
        Rule("classifier.bias", "head/bias"),
    )


TIMM_EFFICIENTNET = Family(
    "timm EfficientNet",
    accepts=lambda model: isinstance(model, EfficientNet),
    rules=_timm_rules,
    ignored=(r".*\.num_batches_tracked",),
)


def _numbered_rules(model: Any) -> tuple[Rule, ...]:
    """Blocks are numbered through all stages, and called by what they do."""
    return (
        Rule("_conv_stem.weight", "stem/conv/kernel", convolution),
        *batch_norm("_bn0", "stem/bn"),
        *(
            rule
            for number, (name, spec) in enumerate(_blocks(model))
            for rule in _numbered_block(f"_blocks.{number}", name, spec.kind)
        ),
        Rule("_conv_head.weight", "conv_head/kernel", convolution),
        *batch_norm("_bn1", "bn2"),
        Rule("_fc.weight", "head/kernel", linear),
        Rule("_fc.bias", "head/bias"),
    )


def _blocks(model: EfficientNet) -> list[tuple[str, BlockSpec]]:
    return [
        (f"stage{s}_{b}", spec)
        for s, stage in enumerate(model.stages, start=1)
        for b, spec in enumerate(stage)
    ]


def _numbered_block(theirs: str, ours: str, kind: str) -> list[Rule]:
    parts = {
        "inverted": (
            ("_expand_conv", "conv_pw", "_bn0", "bn1"),
            ("_depthwise_conv", "conv_dw", "_bn1", "bn2"),
            ("_project_conv", "conv_pwl", "_bn2", "bn3"),
        ),
        "separable": (
            ("_depthwise_conv", "conv_dw", "_bn1", "bn1"),
            ("_project_conv", "conv_pw", "_bn2", "bn2"),
        ),
    }[kind]
    rules = []
    for convolution_name, own, norm, own_norm in parts:
        rules += [
            Rule(f"{theirs}.{convolution_name}.weight", f"{ours}/{own}/kernel", convolution),
            *batch_norm(f"{theirs}.{norm}", f"{ours}/{own_norm}"),
        ]
    return rules


# https://github.com/lukemelas/EfficientNet-PyTorch and what is derived from it, e.g.
# efficientnet-lite-pytorch on PyPI.
NUMBERED_EFFICIENTNET = Family(
    "EfficientNet-PyTorch",
    accepts=lambda model: (
        isinstance(model, EfficientNet)
        and {spec.kind for _, spec in _blocks(model)} <= {"inverted", "separable"}
        and model.head == "conv"
    ),
    rules=_numbered_rules,
    ignored=TIMM_EFFICIENTNET.ignored,
)
