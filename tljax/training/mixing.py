"""Batches in which every image is mixed with another one, and so are their labels.

Mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 2) blends two images;
CutMix (Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", section 3) pastes a box of one into the other. Both are a convex combination
of two images, pixel by pixel, and of the losses of their labels.
"""

import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]

_DRAW = 0x6D6978  # folded into a step's key, for draws that are none of dropout's


def mixed(batch: Batch, key: jax.Array, mixup: float, cutmix: float) -> Batch:
    """A batch mixed in one way: mixup or CutMix, whichever is on; if both are, a fair coin decides.

    Image i of n is mixed with image n - 1 - i of the whole batch, as it was drawn: what a step's
    parts and devices then share out is mixed already, so that the pairs depend on neither. The
    share and the box are drawn once for the batch, as timm does by default.

    Args:
      batch: `image` (n, h, w, 3) and `label` (n,), perhaps `weight` (n,).
      key: of the step.
      mixup, cutmix: alpha of the Beta(alpha, alpha) that the share is drawn from; 0: off.

    Returns:
      The batch with `image` float32, still in [0, 255]; and, beside each label, `other_label` (n,),
      `other_weight` (n,) if there are weights, and `share` (n,), the label's in [0, 1]; the other
      one has the rest. Of a box it is the share of the pixels, to the pixel.
    """
    coin, draw = jax.random.split(jax.random.fold_in(key, _DRAW))
    height, width = batch["image"].shape[1:3]
    if not cutmix:
        own, share = _blended(draw, mixup)
    elif not mixup:
        own, share = _pasted(draw, cutmix, height, width)
    else:
        blend = jax.random.bernoulli(coin)
        kept, kept_share = _pasted(draw, cutmix, height, width)
        constant, constant_share = _blended(draw, mixup)
        own = jnp.where(blend, constant, kept)
        share = jnp.where(blend, constant_share, kept_share)
    images = batch["image"].astype(jnp.float32)
    others = {f"other_{name}": batch[name][::-1] for name in ("label", "weight") if name in batch}
    return {
        **batch,
        **others,
        "image": own * images + (1 - own) * images[::-1],
        "share": jnp.broadcast_to(share, batch["label"].shape),
    }


def _blended(key: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """(each pixel's share of its own image, the mean of them): one number."""
    share = jax.random.beta(key, alpha, alpha)
    return share, share


def _pasted(key: jax.Array, alpha: float, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """(each pixel's share of its own image, (h, w, 1), 0 within the box; the mean of them).

    The box has the image's proportions and its centre anywhere, so that the border may cut it.
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
