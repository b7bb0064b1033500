"""DINOv3's ViTs: the names of timm, of the authors, and of Hugging Face transformers.

https://github.com/facebookresearch/dinov3, `models/vision_transformer.py`. Their queries and values
have biases, which are 0 in the published weights; timm publishes each network without and with
(`qkvb`) them. A key's bias is masked in the authors' code, so there is none here.
"""

from typing import Any

import numpy as np

from tljax.models import ViT
from tljax.weights.families.vit import dense, is_dino_v3, joined_linear, norm
from tljax.weights.rules import Arrays, Family, Rule, Transform, convolution, each, linear


def _heads(model: ViT) -> Transform:
    """A bias (d,) of all heads to (heads, size)."""
    return each(lambda x: x.reshape(model.heads, -1), lambda x: x.reshape(-1))


def _timm_rules(model: Any) -> tuple[Rule, ...]:
    block = "blocks.{i}"
    return (
        *_embedding("cls_token", "reg_token", "patch_embed.proj"),
        *norm(f"{block}.norm{{n}}", "block{i}/norm{n}"),
        Rule(f"{block}.attn.qkv.weight", "block{i}/attn/qkv/kernel", linear),
        Rule(f"{block}.attn.q_bias", "block{i}/attn/q_bias", _heads(model)),
        Rule(f"{block}.attn.v_bias", "block{i}/attn/v_bias", _heads(model)),
        *dense(f"{block}.attn.proj", "block{i}/attn/proj"),
        *_gated(model, block, ("fc1_g", "fc1_x", "fc2"), ("fc1", "fc2")),
        Rule(f"{block}.gamma_{{n}}", "block{i}/ls{n}/gamma"),
        *norm("norm", "norm"),
        *dense("head", "head"),
    )


def _embedding(token: str, registers: str, patch: str) -> tuple[Rule, ...]:
    return (
        Rule(token, "embed/cls_token"),
        Rule(registers, "embed/reg_token"),
        Rule(f"{patch}.weight", "embed/patch/kernel", convolution),
        Rule(f"{patch}.bias", "embed/patch/bias"),
    )


def _gated(
    model: ViT, block: str, gated: tuple[str, ...], plain: tuple[str, ...]
) -> tuple[Rule, ...]:
    """The MLP's layers: of a gated one the gate, the other factor, and the last."""
    theirs, ours = (gated, ("gate", "fc1", "fc2")) if model.gated else (plain, ("fc1", "fc2"))
    return tuple(
        rule
        for source, target in zip(theirs, ours, strict=True)
        for rule in dense(f"{block}.mlp.{source}", f"block{{i}}/mlp/{target}")
    )


# timm pools DINOv3's patches by default, the authors take the class token, as we do.
TIMM_DINOV3 = Family(
    "timm DINOv3",
    accepts=is_dino_v3,
    rules=_timm_rules,
    ignored=(r"rope\..*",),
    spellings=((r"^fc_norm\.", "norm."),),
)


def _query_and_value(model: ViT) -> Transform:
    """A bias of queries, keys and values to the first and the last; backwards that of keys is 0."""

    def forward(arrays: Arrays) -> Arrays:
        query, _, value = np.split(arrays[0], 3)
        return [query.reshape(model.heads, -1), value.reshape(model.heads, -1)]

    def backward(arrays: Arrays) -> Arrays:
        query, value = (array.reshape(-1) for array in arrays)
        return [np.concatenate([query, np.zeros_like(query), value])]

    return Transform(forward, backward)


def _authors_rules(model: Any) -> tuple[Rule, ...]:
    block = "blocks.{i}"
    return (
        *_embedding("cls_token", "storage_tokens", "patch_embed.proj"),
        *norm(f"{block}.norm{{n}}", "block{i}/norm{n}"),
        Rule(f"{block}.attn.qkv.weight", "block{i}/attn/qkv/kernel", linear),
        Rule(
            f"{block}.attn.qkv.bias",
            ("block{i}/attn/q_bias", "block{i}/attn/v_bias"),
            _query_and_value(model),
        ),
        *dense(f"{block}.attn.proj", "block{i}/attn/proj"),
        *_gated(model, block, ("w1", "w2", "w3"), ("fc1", "fc2")),
        Rule(f"{block}.ls{{n}}.gamma", "block{i}/ls{n}/gamma"),
        *norm("norm", "norm"),
        *dense("head", "head"),
    )


def _has_biases(model: Any) -> bool:
    return is_dino_v3(model) and model.qkv_bias == "query_value"


AUTHORS_DINOV3 = Family(
    "DINOv3",
    accepts=_has_biases,
    rules=_authors_rules,
    ignored=("mask_token", r"rope_embed\..*", r".*\.bias_mask", r"(local_cls_norm|projectors)\..*"),
)


def _hf_rules(model: Any) -> tuple[Rule, ...]:
    layer = "layer.{i}"
    return (
        *_embedding(
            "embeddings.cls_token", "embeddings.register_tokens", "embeddings.patch_embeddings"
        ),
        *norm(f"{layer}.norm{{n}}", "block{i}/norm{n}"),
        Rule(
            tuple(f"{layer}.attention.{part}_proj.weight" for part in "qkv"),
            "block{i}/attn/qkv/kernel",
            joined_linear,
        ),
        Rule(f"{layer}.attention.q_proj.bias", "block{i}/attn/q_bias", _heads(model)),
        Rule(f"{layer}.attention.v_proj.bias", "block{i}/attn/v_bias", _heads(model)),
        *dense(f"{layer}.attention.o_proj", "block{i}/attn/proj"),
        *_gated(model, layer, ("gate_proj", "up_proj", "down_proj"), ("up_proj", "down_proj")),
        Rule(f"{layer}.layer_scale{{n}}.lambda1", "block{i}/ls{n}/gamma"),
        *norm("norm", "norm"),
        *dense("classifier", "head"),
    )


HF_DINOV3 = Family(
    "Hugging Face DINOv3",
    accepts=_has_biases,
    rules=_hf_rules,
    ignored=(r"embeddings\.mask_token", r"rope_embeddings\..*"),
    spellings=((r"^(model|encoder)\.(?=layer\.)", ""),),
)
