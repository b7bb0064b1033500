"""ConvNeXt V1 and V2: the names of timm, of the authors, and of Hugging Face transformers.

https://github.com/facebookresearch/ConvNeXt and ConvNeXt-V2, `models/convnext.py`.
"""

from typing import Any

import numpy as np

from tljax.models import ConvNeXt
from tljax.weights.families.vit import dense, norm
from tljax.weights.rules import Family, Rule, convolution, each

# A dense layer that some of timm's networks write as a 1x1 convolution.
_dense = each(lambda x: np.asarray(x).reshape(x.shape[:2]).T, lambda x: x.T)
# The scale and bias of V2's response norm: (1, 1, 1, d) in the authors' files, (d,) in timm's.
_channels = each(lambda x: np.asarray(x).reshape(-1), lambda x: x)
_authors_channels = each(lambda x: np.asarray(x).reshape(-1), lambda x: x[None, None, None])


def _is_convnext(model: Any) -> bool:
    return isinstance(model, ConvNeXt)


def _layer(source: str, target: str, transform: Any) -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.weight", f"{target}/kernel", transform),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


def _timm_rules(model: Any) -> tuple[Rule, ...]:
    theirs, ours = "stages.{s}.blocks.{b}", "layer{s+1}_{b}"
    return (
        *_layer("stem.0", "stem/conv", convolution),
        *norm("stem.1", "stem/norm"),
        *norm("stages.{s}.downsample.0", "layer{s+1}_0/downsample_norm"),
        *_layer("stages.{s}.downsample.1", "layer{s+1}_0/downsample", convolution),
        *_layer(f"{theirs}.conv_dw", f"{ours}/depthwise", convolution),
        *norm(f"{theirs}.norm", f"{ours}/norm"),
        *_layer(f"{theirs}.mlp.fc{{n}}", f"{ours}/fc{{n}}", _dense),
        Rule(f"{theirs}.mlp.grn.weight", f"{ours}/grn/scale", _channels),
        Rule(f"{theirs}.mlp.grn.bias", f"{ours}/grn/bias", _channels),
        Rule(f"{theirs}.gamma", f"{ours}/gamma"),
        *norm("head.norm", "norm"),
        *dense("head.fc", "head"),
    )


TIMM_CONVNEXT = Family("timm ConvNeXt", accepts=_is_convnext, rules=_timm_rules)


def _authors_rules(model: Any) -> tuple[Rule, ...]:
    theirs, ours = "stages.{s}.{b}", "layer{s+1}_{b}"
    return (
        *_layer("downsample_layers.0.0", "stem/conv", convolution),
        *norm("downsample_layers.0.1", "stem/norm"),
        *norm("downsample_layers.{s}.0", "layer{s+1}_0/downsample_norm"),
        *_layer("downsample_layers.{s}.1", "layer{s+1}_0/downsample", convolution),
        *_layer(f"{theirs}.dwconv", f"{ours}/depthwise", convolution),
        *norm(f"{theirs}.norm", f"{ours}/norm"),
        *dense(f"{theirs}.pwconv{{n}}", f"{ours}/fc{{n}}"),
        Rule(f"{theirs}.grn.gamma", f"{ours}/grn/scale", _authors_channels),
        Rule(f"{theirs}.grn.beta", f"{ours}/grn/bias", _authors_channels),
        Rule(f"{theirs}.gamma", f"{ours}/gamma"),
        *norm("norm", "norm"),
        *dense("head", "head"),
    )


AUTHORS_CONVNEXT = Family(
    "ConvNeXt",
    accepts=_is_convnext,
    rules=_authors_rules,
    ignored=(r"norms\..*", "mask_token", r"(decoder|proj|pred)\..*"),
)


def _hf_rules(model: Any) -> tuple[Rule, ...]:
    theirs, ours = "encoder.stages.{s}.layers.{b}", "layer{s+1}_{b}"
    return (
        *_layer("embeddings.patch_embeddings", "stem/conv", convolution),
        *norm("embeddings.layernorm", "stem/norm"),
        *norm("encoder.stages.{s}.downsampling_layer.0", "layer{s+1}_0/downsample_norm"),
        *_layer("encoder.stages.{s}.downsampling_layer.1", "layer{s+1}_0/downsample", convolution),
        *_layer(f"{theirs}.dwconv", f"{ours}/depthwise", convolution),
        *norm(f"{theirs}.layernorm", f"{ours}/norm"),
        *dense(f"{theirs}.pwconv{{n}}", f"{ours}/fc{{n}}"),
        Rule(f"{theirs}.grn.weight", f"{ours}/grn/scale", _authors_channels),
        Rule(f"{theirs}.grn.bias", f"{ours}/grn/bias", _authors_channels),
        Rule(f"{theirs}.layer_scale_parameter", f"{ours}/gamma"),
        *norm("layernorm", "norm"),
        *dense("classifier", "head"),
    )


HF_CONVNEXT = Family("Hugging Face ConvNext", accepts=_is_convnext, rules=_hf_rules)
