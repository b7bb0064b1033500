"""Vision Transformers: the names of timm, Hugging Face transformers, DINOv2 and Google."""

from typing import Any

import numpy as np

from tljax.models import ViT
from tljax.weights.rules import Arrays, Family, Rule, Transform, convolution, linear

_ATTENTION = ("query", "key", "value")


def _join_linear(arrays: Arrays) -> Arrays:
    return [np.concatenate([array.T for array in arrays], axis=1)]


def _split_linear(arrays: Arrays) -> Arrays:
    return [part.T for part in np.split(arrays[0], 3, axis=1)]


# Three dense layers of PyTorch, or their biases, to the one layer of our attention, and back.
joined_linear = Transform(_join_linear, _split_linear)
joined_bias = Transform(
    lambda arrays: [np.concatenate(arrays)], lambda arrays: np.split(arrays[0], 3)
)


def _position_into_token(arrays: Arrays) -> Arrays:
    token, positions = arrays
    return [token + positions[:, :1], positions[:, 1:]]


def _position_of_zero(arrays: Arrays) -> Arrays:
    token, positions = arrays
    return [token, np.concatenate([np.zeros_like(token), positions], axis=1)]


# Adds the position embedding of a class token to the token; the inverse makes one of zeros. The
# second transform is the reverse of the first.
position_into_token = Transform(_position_into_token, _position_of_zero)
position_of_zero = Transform(_position_of_zero, _position_into_token)


def dense(source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.weight", f"{target}/kernel", linear),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


def norm(source: str, target: str) -> tuple[Rule, ...]:
    return Rule(f"{source}.weight", f"{target}/scale"), Rule(f"{source}.bias", f"{target}/bias")


def is_dino_v3(model: Any) -> bool:
    """Whether a model has rotary positions, as DINOv3's ViTs."""
    return isinstance(model, ViT) and model.rotary is not None


def _has_positions(model: Any) -> bool:
    return isinstance(model, ViT) and model.rotary is None


def _is_plain(model: Any) -> bool:
    plain = _has_positions(model) and model.layer_scale is None and not model.registers
    return plain and not model.pre_norm and model.pooling != "attention"


# timm -------------------------------------------------------------------------------------------


def _timm_network(model: Any) -> tuple[Rule, ...]:
    return (
        Rule("patch_embed.proj.weight", "embed/patch/kernel", convolution),
        Rule("patch_embed.proj.bias", "embed/patch/bias"),
        *norm("norm_pre", "embed/norm"),
        *norm("blocks.{i}.norm{n}", "block{i}/norm{n}"),
        *dense("blocks.{i}.attn.qkv", "block{i}/attn/qkv"),
        *dense("blocks.{i}.attn.proj", "block{i}/attn/proj"),
        *dense("blocks.{i}.mlp.fc{n}", "block{i}/mlp/fc{n}"),
        Rule("blocks.{i}.ls{n}.gamma", "block{i}/ls{n}/gamma"),
        # timm names the final norm by whether it comes before or after the pooling.
        *norm("fc_norm" if model.pooling == "mean" else "norm", "norm"),
        Rule("attn_pool.latent", "pool/latent"),
        *(
            rule
            for part in ("q", "kv", "proj", "mlp.fc1", "mlp.fc2")
            for rule in dense(f"attn_pool.{part}", f"pool/{part.replace('.', '/')}")
        ),
        *norm("attn_pool.norm", "pool/norm"),
        *dense("head", "head"),
    )


def _timm_rules(model: Any) -> tuple[Rule, ...]:
    return (
        Rule("cls_token", "embed/cls_token"),
        Rule("reg_token", "embed/reg_token"),
        Rule("pos_embed", "embed/pos_embed"),
        *_timm_network(model),
    )


def _dinov2_rules(model: Any) -> tuple[Rule, ...]:
    return (
        Rule(
            ("cls_token", "pos_embed"),
            ("embed/cls_token", "embed/pos_embed"),
            position_into_token,
        ),
        Rule("register_tokens", "embed/reg_token"),
        *_timm_network(model),
    )


# The names of ViT, AugReg, DeiT, MAE, DINO and DINOv2 in timm, and of the last four in their
# authors' files, which also hold the decoder of MAE: ignored.
TIMM_VIT = Family(
    "timm ViT",
    accepts=_has_positions,
    rules=_timm_rules,
    ignored=("mask_token", r"decoder_.*"),
    before_head=(r"pre_logits\..*",),
    spellings=((r"^fc_norm\.", "norm."),),
)

# The names of DINOv2's authors for networks with registers (those without have timm's names).
DINOV2 = Family(
    "DINOv2",
    accepts=lambda model: _has_positions(model) and model.registers > 0 and model.class_token,
    rules=_dinov2_rules,
    ignored=TIMM_VIT.ignored,
    spellings=TIMM_VIT.spellings,
)


# Hugging Face transformers ----------------------------------------------------------------------
# Files use the names of the first releases. transformers 5 renames them on reading, so that a
# `state_dict` of its models has the new names.

_SINCE_5 = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)


def _hf_network() -> tuple[Rule, ...]:
    """Rules that ViT and Dinov2 share."""
    layer = "encoder.layer.{i}"
    attention = f"{layer}.attention.attention"
    return (
        Rule("embeddings.patch_embeddings.projection.weight", "embed/patch/kernel", convolution),
        Rule("embeddings.patch_embeddings.projection.bias", "embed/patch/bias"),
        Rule(
            tuple(f"{attention}.{part}.weight" for part in _ATTENTION),
            "block{i}/attn/qkv/kernel",
            joined_linear,
        ),
        Rule(
            tuple(f"{attention}.{part}.bias" for part in _ATTENTION),
            "block{i}/attn/qkv/bias",
            joined_bias,
        ),
        *dense(f"{layer}.attention.output.dense", "block{i}/attn/proj"),
        *norm("layernorm", "norm"),
    )


_HF_EMBEDDINGS = (
    Rule("embeddings.cls_token", "embed/cls_token"),
    Rule("embeddings.position_embeddings", "embed/pos_embed"),
)
_HF_EMBEDDINGS_WITH_REGISTERS = (
    Rule(
        ("embeddings.cls_token", "embeddings.position_embeddings"),
        ("embed/cls_token", "embed/pos_embed"),
        position_into_token,
    ),
    Rule("embeddings.register_tokens", "embed/reg_token"),
)


def _hf_vit_rules(model: Any) -> tuple[Rule, ...]:
    layer = "encoder.layer.{i}"
    return (
        *_HF_EMBEDDINGS,
        *_hf_network(),
        *norm(f"{layer}.layernorm_before", "block{i}/norm1"),
        *norm(f"{layer}.layernorm_after", "block{i}/norm2"),
        *dense(f"{layer}.intermediate.dense", "block{i}/mlp/fc1"),
        *dense(f"{layer}.output.dense", "block{i}/mlp/fc2"),
        *dense("classifier", "head"),
    )


# The epsilon of LayerNorms is 1e-12 in transformers; here it is 1e-6, as in the code of Google and
# timm, where most of these weights come from. The field `layer_norm_eps` sets it.
HF_VIT = Family(
    "Hugging Face ViT",
    accepts=_is_plain,
    rules=_hf_vit_rules,
    ignored=(r"embeddings\.mask_token", r"(pooler|decoder)\..*"),
    spellings=(
        *_SINCE_5,
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    resampling="bicubic",
)


# Leaves our head out: this classifier takes the class token together with the patches' mean.
_NO_HEAD = Rule((), ("head/kernel", "head/bias"), Transform(lambda _: [], lambda _: []))


def _hf_dinov2_rules(model: Any) -> tuple[Rule, ...]:
    layer = "encoder.layer.{i}"
    return (
        *(_HF_EMBEDDINGS_WITH_REGISTERS if model.registers else _HF_EMBEDDINGS),
        *_hf_network(),
        *norm(f"{layer}.norm{{n}}", "block{i}/norm{n}"),
        *dense(f"{layer}.mlp.fc{{n}}", "block{i}/mlp/fc{n}"),
        Rule(f"{layer}.layer_scale{{n}}.lambda1", "block{i}/ls{n}/gamma"),
        _NO_HEAD,
    )


HF_DINOV2 = Family(
    "Hugging Face Dinov2",
    accepts=lambda model: _has_positions(model) and model.layer_scale is not None,
    rules=_hf_dinov2_rules,
    ignored=(r"embeddings\.mask_token",),
    spellings=_SINCE_5,
    # transformers resamples with antialiasing if there are registers, else without. The network is
    # timm's, and timm's way gives the same weights one result under either naming. The other way
    # is position_resampling="bicubic".
    resampling="antialiased_bicubic",
)


# Google -----------------------------------------------------------------------------------------


def merged(shape: tuple[int, ...], merged: tuple[int, ...]) -> Transform:
    """Reshapes arrays of one shape, merging heads, and concatenates them along the last axis."""

    def forward(arrays: Arrays) -> Arrays:
        if any(array.shape != shape for array in arrays):
            raise ValueError(f"not all of shape {shape}")
        return [np.concatenate([array.reshape(merged) for array in arrays], axis=-1)]

    def backward(arrays: Arrays) -> Arrays:
        number = arrays[0].shape[-1] // merged[-1]
        return [part.reshape(shape) for part in np.split(arrays[0], number, axis=-1)]

    return Transform(forward, backward)


def google_block(model: Any, attention: str, norm2: str, mlp: str) -> tuple[Rule, ...]:
    """A block whose three parts have these numbers, as early Flax numbered all modules."""
    block = "Transformer/encoderblock_{i}"
    attention = f"{block}/MultiHeadDotProductAttention_{attention}"
    dim, heads = model.dim, model.heads
    per_head = dim // heads
    return (
        *flax_norm(f"{block}/LayerNorm_0", "block{i}/norm1"),
        Rule(
            tuple(f"{attention}/{part}/kernel" for part in _ATTENTION),
            "block{i}/attn/qkv/kernel",
            merged((dim, heads, per_head), (dim, dim)),
        ),
        Rule(
            tuple(f"{attention}/{part}/bias" for part in _ATTENTION),
            "block{i}/attn/qkv/bias",
            merged((heads, per_head), (dim,)),
        ),
        Rule(
            f"{attention}/out/kernel",
            "block{i}/attn/proj/kernel",
            merged((heads, per_head, dim), (dim, dim)),
        ),
        Rule(f"{attention}/out/bias", "block{i}/attn/proj/bias"),
        *flax_norm(f"{block}/LayerNorm_{norm2}", "block{i}/norm2"),
        Rule(f"{block}/MlpBlock_{mlp}/Dense_{{n}}/kernel", "block{i}/mlp/fc{n+1}/kernel"),
        Rule(f"{block}/MlpBlock_{mlp}/Dense_{{n}}/bias", "block{i}/mlp/fc{n+1}/bias"),
    )


def flax_norm(source: str, target: str) -> tuple[Rule, ...]:
    return Rule(f"{source}/scale", f"{target}/scale"), Rule(f"{source}/bias", f"{target}/bias")


_GOOGLE_NETWORK = (
    Rule("embedding/kernel", "embed/patch/kernel"),
    Rule("embedding/bias", "embed/patch/bias"),
    *flax_norm("Transformer/encoder_norm", "norm"),
    Rule("head/kernel", "head/kernel"),
    Rule("head/bias", "head/bias"),
)


def _google_rules(model: Any) -> tuple[Rule, ...]:
    return (
        Rule("cls", "embed/cls_token"),
        Rule("Transformer/posembed_input/pos_embedding", "embed/pos_embed"),
        *google_block(model, attention="1", norm2="2", mlp="3"),
        *_GOOGLE_NETWORK,
    )


def _big_vision_rules(model: Any) -> tuple[Rule, ...]:
    return (
        Rule(("cls", "pos_embedding"), ("embed/cls_token", "embed/pos_embed"), position_of_zero)
        if model.class_token
        else Rule("pos_embedding", "embed/pos_embed"),
        *google_block(model, attention="0", norm2="1", mlp="0"),
        *_GOOGLE_NETWORK,
    )


# https://github.com/google-research/vision_transformer: ViT and AugReg. Google's own code
# approximates GELU by tanh; timm, which publishes the same weights, does not, and neither do we.
GOOGLE_VIT = Family(
    "Google ViT",
    accepts=_is_plain,
    rules=_google_rules,
    before_head=(r"pre_logits/.*",),
    resampling="zoom",
)

# https://github.com/google-research/big_vision, whose class token has no position.
BIG_VISION = Family(
    "big_vision",
    accepts=_is_plain,
    rules=_big_vision_rules,
    before_head=GOOGLE_VIT.before_head,
    resampling="zoom",
)
