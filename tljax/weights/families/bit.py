"""Big Transfer's ResNets (Kolesnikov et al. 2020): the names of Google's files and timm's.

https://github.com/google-research/big_transfer, `bit_pytorch/models.py` and `bit_jax/tf2jax.py`.
"""

from typing import Any

from tljax.models import ResNetV2
from tljax.weights.rules import Family, Rule, convolution, each

# The head is a 1x1 convolution of the pooled features: (1, 1, d, n) of TensorFlow, (n, d, 1, 1) of
# PyTorch.
_tf_head = each(lambda x: x.reshape(x.shape[2:]), lambda x: x[None, None])
_torch_head = each(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[:, :, None, None])


def _is_bit(model: Any) -> bool:
    return isinstance(model, ResNetV2) and model.standardised


def _google_rules(model: Any) -> tuple[Rule, ...]:
    unit, block = "resnet/block{s}/unit{b+1:02}", "layer{s}_{b}"
    convolution = "standardized_conv2d/kernel"
    parts = (
        rule
        for n, part in enumerate("abc", start=1)
        for rule in (
            *_group_norm(f"{unit}/{part}/group_norm", f"{block}/norm{n}"),
            Rule(f"{unit}/{part}/{convolution}", f"{block}/conv{n}/kernel"),
        )
    )
    return (
        Rule(f"resnet/root_block/{convolution}", "stem/conv/kernel"),
        *parts,
        Rule(f"{unit}/a/proj/{convolution}", f"{block}/downsample/kernel"),
        *_group_norm("resnet/group_norm", "norm"),
        Rule("resnet/head/conv2d/kernel", "head/kernel", _tf_head),
        Rule("resnet/head/conv2d/bias", "head/bias"),
    )


def _group_norm(source: str, target: str) -> tuple[Rule, ...]:
    return Rule(f"{source}/gamma", f"{target}/scale"), Rule(f"{source}/beta", f"{target}/bias")


GOOGLE_BIT = Family(
    "Google BiT",
    accepts=_is_bit,
    rules=_google_rules,
    spellings=((r"^(?=(root_block|block\d+|group_norm|head)/)", "resnet/"),),
)


def _timm_rules(model: Any) -> tuple[Rule, ...]:
    unit, block = "stages.{s}.blocks.{b}", "layer{s+1}_{b}"
    return (
        Rule("stem.conv.weight", "stem/conv/kernel", convolution),
        Rule(f"{unit}.norm{{n}}.weight", f"{block}/norm{{n}}/scale"),
        Rule(f"{unit}.norm{{n}}.bias", f"{block}/norm{{n}}/bias"),
        Rule(f"{unit}.conv{{n}}.weight", f"{block}/conv{{n}}/kernel", convolution),
        Rule(f"{unit}.downsample.conv.weight", f"{block}/downsample/kernel", convolution),
        Rule("norm.weight", "norm/scale"),
        Rule("norm.bias", "norm/bias"),
        Rule("head.fc.weight", "head/kernel", _torch_head),
        Rule("head.fc.bias", "head/bias"),
    )


TIMM_BIT = Family("timm BiT", accepts=_is_bit, rules=_timm_rules)
