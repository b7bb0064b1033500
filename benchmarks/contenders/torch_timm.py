"""PyTorch with timm, frozen by `requires_grad=False`, as is usual."""

import itertools
import time
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import jobs
from benchmarks.jobs import Job, Network
from benchmarks.timing import median_seconds, seconds_per_batch
from tljax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.fp32_precision = "ieee"  # cuDNN's convolutions would use TF32


def job(
    job: Job, folder: Path, epochs: int, by_hand: bool = False, compiled: bool = False
) -> dict[str, Any]:
    """Times the job's first `epochs` epochs; `epoch_seconds` has the time of each.

    Args:
      by_hand: S1 with features that are computed once, before training.
      compiled: whether to use `torch.compile`.
    """
    images, labels = jobs.make_images(job.network.pixels, job.images)
    model = build(job.network, folder)
    began = time.perf_counter()
    parameters = freeze(model, job)
    groups = [{"params": p, "lr": rate * jobs.LEARNING_RATE} for p, rate in parameters]
    optimizer = torch.optim.SGD(groups, momentum=jobs.MOMENTUM)
    pixels, targets = torch.from_numpy(images), torch.from_numpy(labels).long()
    network = torch.compile(model) if compiled else model
    if by_hand:
        network = model.get_classifier()
        with torch.no_grad():
            features = torch.cat(
                [
                    model.forward_head(model.forward_features(normalise(part)), pre_logits=True)
                    for part in pixels.split(jobs.BATCH)
                ]
            )
    epoch_seconds, loss = [], torch.zeros(())
    for epoch in range(epochs):
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(epoch)
        for rows in torch.randperm(len(targets), generator=generator).split(jobs.BATCH):
            inputs = features[rows] if by_hand else normalise(pixels[rows])
            loss = _step(network, optimizer, inputs, targets[rows].to(DEVICE))
        loss.item()  # waits for the device
        epoch_seconds.append(time.perf_counter() - start)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "epochs": epochs,
        "epoch_seconds": epoch_seconds,
        "loss": float(loss),
    }


def forward(network: Network, folder: Path, batch: int, form: str = "plain") -> dict[str, float]:
    """Seconds to classify a batch; `form`: plain, channels_last or compiled."""
    model = build(network, folder).eval()
    images = normalise(torch.from_numpy(jobs.make_images(network.pixels, batch)[0]))
    model, images = _apply_form(model, images, form)

    def run() -> None:
        with torch.inference_mode():
            model(images).sum().item()

    return {"seconds": median_seconds(run)}


def step(
    network: Network, folder: Path, batch: int, scenario: str, form: str = "plain"
) -> dict[str, float]:
    """Seconds of one training step, from images."""
    model = build(network, folder)
    parameters = freeze(model, Job(network, scenario, batch, 1))
    groups = [{"params": p, "lr": rate * jobs.LEARNING_RATE} for p, rate in parameters]
    optimizer = torch.optim.SGD(groups, momentum=jobs.MOMENTUM)
    images, labels = jobs.make_images(network.pixels, batch)
    inputs = normalise(torch.from_numpy(images))
    targets = torch.from_numpy(labels).long().to(DEVICE)
    model, inputs = _apply_form(model, inputs, form)
    return {"seconds": median_seconds(lambda: _step(model, optimizer, inputs, targets).item())}


def half_step(network: Network, folder: Path) -> dict[str, float]:
    """Images a second of a compiled bfloat16 step at the largest batch that fits."""
    for batch in jobs.HALF_BATCHES:
        torch.cuda.empty_cache()
        try:
            model = build(network, folder).to(memory_format=torch.channels_last).train()
            optimizer = torch.optim.SGD(model.parameters(), jobs.LEARNING_RATE, jobs.MOMENTUM)
            images, labels = jobs.make_images(network.pixels, batch)
            inputs = normalise(torch.from_numpy(images)).to(memory_format=torch.channels_last)
            targets = torch.from_numpy(labels).long().to(DEVICE)
            compiled = torch.compile(model)

            def run(compiled=compiled, optimizer=optimizer, inputs=inputs, targets=targets) -> None:
                with torch.autocast(DEVICE, torch.bfloat16):
                    loss = torch.nn.functional.cross_entropy(compiled(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss.item()

            return {"images_per_second": batch / median_seconds(run), "batch": batch}
        except torch.OutOfMemoryError:
            continue
    raise SystemExit(f"no batch of {network.name} fits")


def read(folder: Path, batch: int, num_workers: int) -> dict[str, float]:
    """Seconds in which torchvision reads, crops, resizes and randomly mirrors a batch."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),  # bilinear
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    photographs = ImageFolder(str(jobs.make_photographs(folder) / "train"), transform)
    loader = DataLoader(
        photographs,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    epochs = itertools.repeat(loader)
    return {"seconds": seconds_per_batch(itertools.chain.from_iterable(epochs))}


def build(network: Network, folder: Path) -> Any:
    """timm's network with the weights of `jobs.make_weights`; its head is zero."""
    if network.name == "resnet10_32":
        model = ResNet(BasicBlock, (1, 1, 1, 1), jobs.CLASSES, channels=(16, 32, 64, 128))
        model.conv1 = torch.nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        model.bn1, model.maxpool = torch.nn.BatchNorm2d(16), torch.nn.Identity()
        model.layer1[0] = BasicBlock(16, 16)
    else:
        size = {"img_size": network.pixels} if "vit" in network.name else {}
        if "dinov3" in network.name:
            size["global_pool"] = "token"  # as its authors, and we
        model = timm.create_model(network.name, num_classes=jobs.CLASSES, **size)
    state = load_file(jobs.make_weights(network, folder))
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.endswith("num_batches_tracked")] + unexpected
    assert not wrong, wrong
    return model.to(DEVICE)


def freeze(model: Any, job: Job) -> list[tuple[list[Any], float]]:
    """Freezes the scenario's groups, BatchNorm included. Returns (parameters, rate) of the rest."""
    model.train()
    stages = _stages(model) if job.scenario in ("feature_extraction", "freeze_first") else []
    first = {"feature_extraction": len(stages) - 1, "freeze_first": job.network.k}
    for stage in stages[: first.get(job.scenario, 0)]:
        for module in stage:
            if isinstance(module, torch.nn.Parameter):
                module.requires_grad = False
            else:
                module.eval()
                module.requires_grad_(False)
    head = list(model.get_classifier().parameters())
    head_ids = {id(p) for p in head}
    body = [p for p in model.parameters() if p.requires_grad and id(p) not in head_ids]
    rate = jobs.BACKBONE_RATE if job.scenario == "fine_tune" else 1.0
    return [(body, rate), (head, 1.0)] if body else [(head, 1.0)]


def _stages(model: Any) -> list[list[Any]]:
    """The modules of each of tljax's groups, input first."""
    if hasattr(model, "blocks"):
        embed = [model.patch_embed, model.cls_token, model.pos_embed]
        blocks = [[block] for block in model.blocks]
        blocks[-1] += [model.norm, model.fc_norm]
        return [embed, *blocks, [model.get_classifier()]]
    layers = (model.layer1, model.layer2, model.layer3, model.layer4)
    blocks = [[block] for layer in layers for block in layer]
    return [[model.conv1, model.bn1], *blocks, [model.get_classifier()]]


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, h, w, 3) to normalised float32 (n, 3, h, w)."""
    x = images.to(DEVICE).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (
        torch.tensor(v, device=DEVICE).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (x - mean) / std


def _apply_form(model: Any, images: torch.Tensor, form: str) -> tuple[Any, torch.Tensor]:
    if form == "channels_last":
        return (
            model.to(memory_format=torch.channels_last),
            images.to(memory_format=torch.channels_last),
        )
    return (torch.compile(model) if form == "compiled" else model), images


def _step(model: Any, optimizer: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()
