"""Image towers of CLIP and SigLIP: the names of OpenAI and OpenCLIP, Hugging Face and big_vision.

timm's names of them are those of its other ViTs. The tower's projection into the space that it
shares with texts is the head; it has no bias. The text tower is left out.
"""

from typing import Any

import numpy as np

from tljax.models import ViT
from tljax.weights.families.vit import (
    dense,
    flax_norm,
    google_block,
    joined_bias,
    joined_linear,
    merged,
    norm,
)
from tljax.weights.rules import Arrays, Family, Rule, Transform, convolution, each, linear

_first_axis = each(lambda x: x[None], lambda x: x[0])
_token = each(lambda x: x.reshape(1, 1, -1), lambda x: x.reshape(-1))


def _projection(transposed: bool) -> Transform:
    """A matrix without a bias to a head, whose bias is 0."""

    def forward(arrays: Arrays) -> Arrays:
        kernel = arrays[0].T if transposed else arrays[0]
        return [kernel, np.zeros(kernel.shape[-1], np.float32)]

    def backward(arrays: Arrays) -> Arrays:
        kernel, bias = arrays
        if np.any(bias):
            raise ValueError("the head has a bias, for which CLIP's projection has no place")
        return [kernel.T if transposed else kernel]

    return Transform(forward, backward)


def _is_clip(model: Any) -> bool:
    return isinstance(model, ViT) and model.pre_norm


def _is_siglip(model: Any) -> bool:
    return isinstance(model, ViT) and model.pooling == "attention"


# OpenAI and OpenCLIP ------------------------------------------------------------------------------


def _open_clip_rules(model: Any) -> tuple[Rule, ...]:
    block = "visual.transformer.resblocks.{i}"
    return (
        Rule("visual.class_embedding", "embed/cls_token", _token),
        Rule("visual.positional_embedding", "embed/pos_embed", _first_axis),
        Rule("visual.conv1.weight", "embed/patch/kernel", convolution),
        *norm("visual.ln_pre", "embed/norm"),
        *norm(f"{block}.ln_{{n}}", "block{i}/norm{n}"),
        Rule(f"{block}.attn.in_proj_weight", "block{i}/attn/qkv/kernel", linear),
        Rule(f"{block}.attn.in_proj_bias", "block{i}/attn/qkv/bias"),
        *dense(f"{block}.attn.out_proj", "block{i}/attn/proj"),
        *dense(f"{block}.mlp.c_fc", "block{i}/mlp/fc1"),
        *dense(f"{block}.mlp.c_proj", "block{i}/mlp/fc2"),
        *norm("visual.ln_post", "norm"),
        Rule("visual.proj", ("head/kernel", "head/bias"), _projection(transposed=False)),
    )


OPEN_CLIP = Family(
    "OpenCLIP",
    accepts=_is_clip,
    rules=_open_clip_rules,
    ignored=(
        r"(transformer|token_embedding|ln_final)\..*",
        *("positional_embedding", "text_projection", "logit_scale", "logit_bias", "attn_mask"),
        *("input_resolution", "context_length", "vocab_size"),  # of OpenAI's archives
    ),
)


# Hugging Face transformers ------------------------------------------------------------------------


def _hf_blocks() -> tuple[Rule, ...]:
    layer = "vision_model.encoder.layers.{i}"
    return (
        *norm(f"{layer}.layer_norm{{n}}", "block{i}/norm{n}"),
        Rule(
            tuple(f"{layer}.self_attn.{part}_proj.weight" for part in "qkv"),
            "block{i}/attn/qkv/kernel",
            joined_linear,
        ),
        Rule(
            tuple(f"{layer}.self_attn.{part}_proj.bias" for part in "qkv"),
            "block{i}/attn/qkv/bias",
            joined_bias,
        ),
        *dense(f"{layer}.self_attn.out_proj", "block{i}/attn/proj"),
        *dense(f"{layer}.mlp.fc{{n}}", "block{i}/mlp/fc{n}"),
        *norm("vision_model.post_layernorm", "norm"),
    )


def _hf_clip_rules(model: Any) -> tuple[Rule, ...]:
    embeddings = "vision_model.embeddings"
    return (
        Rule(f"{embeddings}.class_embedding", "embed/cls_token", _token),
        Rule(f"{embeddings}.position_embedding.weight", "embed/pos_embed", _first_axis),
        Rule(f"{embeddings}.patch_embedding.weight", "embed/patch/kernel", convolution),
        *norm("vision_model.pre_layrnorm", "embed/norm"),
        *_hf_blocks(),
        Rule(
            "visual_projection.weight",
            ("head/kernel", "head/bias"),
            _projection(transposed=True),
        ),
    )


_TEXT = (
    r"text_model\..*",
    r"text_projection\..*",
    *("logit_scale", "logit_bias"),
    r".*\.position_ids",
)
HF_CLIP = Family("Hugging Face CLIP", accepts=_is_clip, rules=_hf_clip_rules, ignored=_TEXT)


def _hf_siglip_rules(model: Any) -> tuple[Rule, ...]:
    embeddings, head = "vision_model.embeddings", "vision_model.head"
    return (
        Rule(f"{embeddings}.position_embedding.weight", "embed/pos_embed", _first_axis),
        Rule(f"{embeddings}.patch_embedding.weight", "embed/patch/kernel", convolution),
        Rule(f"{embeddings}.patch_embedding.bias", "embed/patch/bias"),
        *_hf_blocks(),
        Rule(f"{head}.probe", "pool/latent"),
        Rule(
            f"{head}.attention.in_proj_weight",
            ("pool/q/kernel", "pool/kv/kernel"),
            Transform(
                lambda arrays: [part.T for part in _query_and_others(arrays[0])],
                lambda arrays: [np.concatenate([part.T for part in arrays])],
            ),
        ),
        Rule(
            f"{head}.attention.in_proj_bias",
            ("pool/q/bias", "pool/kv/bias"),
            Transform(
                lambda arrays: list(_query_and_others(arrays[0])),
                lambda arrays: [np.concatenate(list(arrays))],
            ),
        ),
        *dense(f"{head}.attention.out_proj", "pool/proj"),
        *norm(f"{head}.layernorm", "pool/norm"),
        *dense(f"{head}.mlp.fc{{n}}", "pool/mlp/fc{n}"),
        *dense("classifier", "head"),
    )


def _query_and_others(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    third = len(array) // 3
    return array[:third], array[third:]


HF_SIGLIP = Family("Hugging Face SigLIP", accepts=_is_siglip, rules=_hf_siglip_rules, ignored=_TEXT)


# big_vision ---------------------------------------------------------------------------------------


def _big_vision_rules(model: Any) -> tuple[Rule, ...]:
    pool, attention = "MAPHead_0", "MAPHead_0/MultiHeadDotProductAttention_0"
    dim, heads = model.dim, model.heads
    split, joined = (dim, heads, dim // heads), (dim, dim)
    split_bias, joined_of_bias = (heads, dim // heads), (dim,)
    return (
        Rule("pos_embedding", "embed/pos_embed"),
        *google_block(model, attention="0", norm2="1", mlp="0"),
        Rule("embedding/kernel", "embed/patch/kernel"),
        Rule("embedding/bias", "embed/patch/bias"),
        *flax_norm("Transformer/encoder_norm", "norm"),
        Rule(f"{pool}/probe", "pool/latent"),
        Rule(f"{attention}/query/kernel", "pool/q/kernel", merged(split, joined)),
        Rule(f"{attention}/query/bias", "pool/q/bias", merged(split_bias, joined_of_bias)),
        Rule(
            (f"{attention}/key/kernel", f"{attention}/value/kernel"),
            "pool/kv/kernel",
            merged(split, joined),
        ),
        Rule(
            (f"{attention}/key/bias", f"{attention}/value/bias"),
            "pool/kv/bias",
            merged(split_bias, joined_of_bias),
        ),
        Rule(f"{attention}/out/kernel", "pool/proj/kernel", merged((*split_bias, dim), joined)),
        Rule(f"{attention}/out/bias", "pool/proj/bias"),
        *flax_norm(f"{pool}/LayerNorm_0", "pool/norm"),
        Rule(f"{pool}/MlpBlock_0/Dense_{{n}}/kernel", "pool/mlp/fc{n+1}/kernel"),
        Rule(f"{pool}/MlpBlock_0/Dense_{{n}}/bias", "pool/mlp/fc{n+1}/bias"),
        Rule("head/kernel", "head/kernel"),
        Rule("head/bias", "head/bias"),
    )


BIG_VISION_SIGLIP = Family(
    "big_vision SigLIP",
    accepts=_is_siglip,
    rules=_big_vision_rules,
    ignored=(r"txt/.*", "t", "b"),
    spellings=((r"^(params/)?img/", ""),),
    resampling="zoom",
)
