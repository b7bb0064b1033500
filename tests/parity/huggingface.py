"""Activations of Hugging Face transformers' networks.

`from_pretrained` reads a real file and reports missing and unused tensors.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from tests.parity.torchvision_resnet import to_numpy, to_torch
from tljax.models import ConvNeXt, ImageSize, ResNet, ViT, create

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@torch.no_grad()
def outputs(
    model_name: str,
    fields: dict[str, Any],
    size: ImageSize,
    tensors: dict[str, np.ndarray],
    images: np.ndarray,
) -> list[np.ndarray]:
    """Returns the output of each of our groups, computed by transformers.

    Args:
      model_name, fields: our model, with ten classes; Dinov2 has no head like ours.
      size: image size.
      tensors: by the names in transformers' files; with position embeddings for any square grid,
        which transformers' own code resamples.
      images: normalised (n, h, w, 3).
    """
    ours = create(model_name, 10, **fields)
    if isinstance(ours, ResNet):
        return _resnet(ours, tensors, to_torch(images))
    if isinstance(ours, ConvNeXt):
        return _convnext(ours, tensors, to_torch(images))
    if ours.rotary is not None:
        return _dinov3(ours, tensors, to_torch(images))
    if ours.pre_norm:
        return _clip(ours, size, tensors, to_torch(images))
    if ours.pooling == "attention":
        return _siglip(ours, size, tensors, to_torch(images))
    if ours.layer_scale is None:
        return _vit(ours, tensors, to_torch(images))
    return _dinov2(ours, tensors, to_torch(images))


def _resnet(ours: ResNet, tensors: dict[str, np.ndarray], x: torch.Tensor) -> list[np.ndarray]:
    config = transformers.ResNetConfig(
        embedding_size=ours.widths[0],
        hidden_sizes=[width * (4 if ours.bottleneck else 1) for width in ours.widths],
        depths=list(ours.stage_sizes),
        layer_type="bottleneck" if ours.bottleneck else "basic",
        num_labels=10,
    )
    module = _load(transformers.ResNetForImageClassification, config, tensors)
    x = module.resnet.embedder(x)
    found = [x]
    for stage in module.resnet.encoder.stages:
        for layer in stage.layers:
            x = layer(x)
            found.append(x)
    found[-1] = module.resnet.pooler(x).flatten(1)
    return [to_numpy(x) for x in (*found, module.classifier(found[-1]))]


def _convnext(ours: ConvNeXt, tensors: dict[str, np.ndarray], x: torch.Tensor) -> list[np.ndarray]:
    version = "V2" if ours.response_norm else ""
    config = getattr(transformers, f"ConvNext{version}Config")(
        patch_size=ours.patch,
        depths=list(ours.stage_sizes),
        hidden_sizes=list(ours.widths),
        num_labels=10,
        layer_norm_eps=1e-6,
    )
    kind = getattr(transformers, f"ConvNext{version}ForImageClassification")
    module = _load(kind, config, tensors)
    network = module.convnextv2 if version else module.convnext
    x = network.embeddings(x)
    found = [x]
    for stage in network.encoder.stages:
        for layer in stage.downsampling_layer:
            x = layer(x)
        for layer in stage.layers:
            x = layer(x)
            found.append(x)
    found[-1] = network.layernorm(x.mean([-2, -1]))
    return [to_numpy(x) for x in (*found, module.classifier(found[-1]))]


def _vit(ours: ViT, tensors: dict[str, np.ndarray], x: torch.Tensor) -> list[np.ndarray]:
    config = transformers.ViTConfig(
        **_sizes(ours, tensors["embeddings.position_embeddings"]), num_labels=10
    )
    assert config.layer_norm_eps == ours.layer_norm_eps == 1e-12
    module = _load(transformers.ViTForImageClassification, config, tensors)
    found = [module.vit.embeddings(x, interpolate_pos_encoding=True)]
    for layer in module.vit.layers:
        found.append(layer(found[-1]))
    found[-1] = module.vit.layernorm(found[-1])[:, 0]
    return [to_numpy(x) for x in (*found, module.classifier(found[-1]))]


def _dinov2(ours: ViT, tensors: dict[str, np.ndarray], x: torch.Tensor) -> list[np.ndarray]:
    sizes = _sizes(ours, tensors["embeddings.position_embeddings"])
    if ours.registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=ours.registers)
        module = _load(transformers.Dinov2WithRegistersModel, config, tensors)
    else:
        config = transformers.Dinov2Config(**sizes)
        module = _load(transformers.Dinov2Model, config, tensors)
    found = [module.embeddings(x)]
    for layer in module.encoder.layer:
        found.append(layer(found[-1]))
    found[-1] = module.layernorm(found[-1])[:, 0]
    return [to_numpy(x) for x in (*found, found[-1])]


def _dinov3(ours: ViT, tensors: dict[str, np.ndarray], x: torch.Tensor) -> list[np.ndarray]:
    config = transformers.DINOv3ViTConfig(
        hidden_size=ours.dim,
        intermediate_size=4 * ours.dim,
        num_hidden_layers=ours.depth,
        num_attention_heads=ours.heads,
        patch_size=ours.patch,
        num_register_tokens=ours.registers,
        use_gated_mlp=ours.gated,
        hidden_act="silu" if ours.gated else "gelu",
    )
    module = _load(transformers.DINOv3ViTModel, config, tensors)
    rope = module.rope_embeddings(x)
    found = [module.embeddings(x)]
    for layer in module.model.layer:
        found.append(layer(found[-1], position_embeddings=rope))
    found[-1] = module.norm(found[-1])[:, 0]
    return [to_numpy(x) for x in (*found, found[-1])]


def _clip(
    ours: ViT, size: int, tensors: dict[str, np.ndarray], x: torch.Tensor
) -> list[np.ndarray]:
    config = transformers.CLIPVisionConfig(**_tower(ours, size), projection_dim=10)
    assert config.hidden_act == ours.activation
    module = _load(transformers.CLIPVisionModelWithProjection, config, tensors)
    tower = module.vision_model
    found = [tower.pre_layrnorm(tower.embeddings(x))]
    for layer in tower.encoder.layers:
        found.append(layer(found[-1], attention_mask=None))
    found[-1] = tower.post_layernorm(found[-1][:, 0])
    return [to_numpy(x) for x in (*found, module.visual_projection(found[-1]))]


def _siglip(
    ours: ViT, size: int, tensors: dict[str, np.ndarray], x: torch.Tensor
) -> list[np.ndarray]:
    config = transformers.SiglipVisionConfig(**_tower(ours, size), num_labels=10)
    assert config.hidden_act == "gelu_pytorch_tanh"
    config = transformers.SiglipConfig(vision_config=config.to_dict(), num_labels=10)
    module = _load(transformers.SiglipForImageClassification, config, tensors)
    tower = module.vision_model
    found = [tower.embeddings(x)]
    for layer in tower.encoder.layers:
        found.append(layer(found[-1], attention_mask=None))
    found[-1] = tower.head(tower.post_layernorm(found[-1]))
    return [to_numpy(x) for x in (*found, module.classifier(found[-1]))]


def _tower(ours: ViT, size: int) -> dict[str, Any]:
    return {
        "hidden_size": ours.dim,
        "intermediate_size": int(ours.mlp_ratio * ours.dim),
        "num_hidden_layers": ours.depth,
        "num_attention_heads": ours.heads,
        "patch_size": ours.patch,
        "image_size": size,
        "layer_norm_eps": ours.layer_norm_eps,
    }


def _sizes(ours: ViT, positions: np.ndarray) -> dict[str, Any]:
    return {
        "hidden_size": ours.dim,
        "num_hidden_layers": ours.depth,
        "num_attention_heads": ours.heads,
        "patch_size": ours.patch,
        "image_size": round((positions.shape[1] - 1) ** 0.5) * ours.patch,
        # Dinov2's configurations have `mlp_ratio` instead.
        **({"intermediate_size": 4 * ours.dim} if ours.layer_scale is None else {}),
    }


def _load(
    kind: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    tensors: dict[str, np.ndarray],
) -> transformers.PreTrainedModel:
    """A module with its weights, read from a file like those on the hub."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, file, {"format": "pt"})
        module, info = kind.from_pretrained(folder, output_loading_info=True)
    unexpected, mismatched = info["unexpected_keys"], info["mismatched_keys"]
    missing = {
        name
        for name in info["missing_keys"]
        # Not used by the network: the mask token of training, PyTorch's batch counters.
        if not name.endswith(("mask_token", "num_batches_tracked"))
    }
    assert not missing | set(unexpected) | set(mismatched), (missing, unexpected, mismatched)
    return module.eval()
