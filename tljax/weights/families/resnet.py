"""ResNets: torchvision's names, which are timm's too, and those of Hugging Face transformers."""

from typing import Any

from tljax.models import ResNet
from tljax.weights.rules import Family, Rule, convolution, linear


def batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    """A BatchNorm's four tensors under PyTorch's names."""
    return (
        Rule(f"{source}.weight", f"{target}/scale"),
        Rule(f"{source}.bias", f"{target}/bias"),
        Rule(f"{source}.running_mean", f"{target}/mean"),
        Rule(f"{source}.running_var", f"{target}/var"),
    )


def _torch_rules(model: Any) -> tuple[Rule, ...]:
    block = "layer{s}_{b}"
    return (
        Rule("conv1.weight", "stem/conv/kernel", convolution),
        *batch_norm("bn1", "stem/bn"),
        Rule("layer{s}.{b}.conv{c}.weight", f"{block}/conv{{c}}/conv/kernel", convolution),
        *batch_norm("layer{s}.{b}.bn{c}", f"{block}/conv{{c}}/bn"),
        Rule("layer{s}.{b}.downsample.0.weight", f"{block}/downsample/conv/kernel", convolution),
        *batch_norm("layer{s}.{b}.downsample.1", f"{block}/downsample/bn"),
        Rule("fc.weight", "head/kernel", linear),
        Rule("fc.bias", "head/bias"),
    )


TORCH_RESNET = Family(
    "torchvision ResNet",
    accepts=lambda model: isinstance(model, ResNet) and not model.conv_bias,
    rules=_torch_rules,
    ignored=(r".*\.num_batches_tracked",),
)


def _hf_rules(model: Any) -> tuple[Rule, ...]:
    theirs, ours = "encoder.stages.{s}.layers.{b}", "layer{s+1}_{b}"
    return (
        *_hf_conv_norm("embedder.embedder", "stem"),
        *_hf_conv_norm(f"{theirs}.layer.{{c}}", f"{ours}/conv{{c+1}}"),
        *_hf_conv_norm(f"{theirs}.shortcut", f"{ours}/downsample"),
        Rule("classifier.1.weight", "head/kernel", linear),
        Rule("classifier.1.bias", "head/bias"),
    )


def _hf_conv_norm(source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.convolution.weight", f"{target}/conv/kernel", convolution),
        *batch_norm(f"{source}.normalization", f"{target}/bn"),
    )


HF_RESNET = Family(
    "Hugging Face ResNet",
    accepts=TORCH_RESNET.accepts,
    rules=_hf_rules,
    ignored=TORCH_RESNET.ignored,
)
