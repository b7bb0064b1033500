"""Mixup and CutMix: batches in which every image, and its label, is mixed with another one.

Mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 2) blends two images;
CutMix (Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", section 3) pastes a box of one into the other. Both form a convex combination
of two images, pixel by pixel, and of the losses of their labels.
"""

import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]

_DRAW = 0x6D6978  # folded into a step's key, so that these draws are independent of dropout's


def mix(batch: Batch, key: jax.Array, mixup: float, cutmix: float) -> Batch:
    """Mixes a batch by mixup or CutMix, whichever is on; if both are, a fair coin decides.

    Image i of n is mixed with image n - 1 - i of the whole batch, before the batch is divided into
    parts and over devices, so that the pairs depend on neither. The share and the box are drawn
    once for the batch, as timm does by default.

    Args:
      batch: `image` (n, h, w, 3), `label` (n,) or (n, m), and optionally `weight`, likewise.
      key: of the step.
      mixup, cutmix: alpha of the Beta(alpha, alpha) that the share is drawn from; 0: off.

    Returns:
      The batch with `image` mixed, float32 in [0, 255], and with `other_label`, `other_weight`
      if there are weights, and `share` (n,) in [0, 1], the label's; the other label has the
      rest. With CutMix the share is exactly that of the pixels.
    """
    coin, draw = jax.random.split(jax.random.fold_in(key, _DRAW))
    height, width = batch["image"].shape[1:3]
    if not cutmix:
        own, share = _blend(draw, mixup)
    elif not mixup:
        own, share = _paste(draw, cutmix, height, width)
    else:
        blend = jax.random.bernoulli(coin)
        kept, kept_share = _paste(draw, cutmix, height, width)
        constant, constant_share = _blend(draw, mixup)
        own = jnp.where(blend, constant, kept)
        share = jnp.where(blend, constant_share, kept_share)
    images = batch["image"].astype(jnp.float32)
    others = {f"other_{name}": batch[name][::-1] for name in ("label", "weight") if name in batch}
    return {
        **batch,
        **others,
        "image": own * images + (1 - own) * images[::-1],
        "share": jnp.broadcast_to(share, batch["label"].shape[:1]),
    }


def _blend(key: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Mixup: (each pixel's share of its own image, their mean), here the same number."""
    share = jax.random.beta(key, alpha, alpha)
    return share, share


def _paste(key: jax.Array, alpha: float, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """CutMix: (each pixel's share of its own image, (h, w, 1), 0 within the box; their mean).

    The box has the image's proportions. Its centre is anywhere, so the border may cut it.
    """
    draw, row, column = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(draw, alpha, alpha))  # of the box, in sides of the image
    inside = []
    for length, place in ((height, row), (width, column)):
        centre = jax.random.randint(place, (), 0, length)
        half = (length * side).astype(jnp.int32) // 2
        at = jnp.arange(length)
        inside.append((at >= centre - half) & (at < centre + half))
    own = 1.0 - (inside[0][:, None] & inside[1][None, :])[..., None].astype(jnp.float32)
    return own, own.mean()
