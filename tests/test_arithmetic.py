"""The networks' own implementations of operations against JAX's: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tljax.models import arithmetic


def normal(number, *shape):
    return jax.random.normal(jax.random.key(number), shape)


def agree(ours, theirs, *arguments):
    """Asserts that two functions have the same value and gradients, up to float32 rounding."""

    def both(function, arguments):
        value, pull = jax.vjp(function, *arguments)
        return value, pull(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))

    results = jax.jit(lambda *given: [both(f, given) for f in (ours, theirs)])(*arguments)
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [
        (32, 3, 1, 1),  # on a CPU with our gradient of the kernel
        (60, 7, 2, 3),  # with both of our gradients
        (57, 3, 2, 1),
        (58, 3, 2, 1),
        (13, 5, 3, 2),  # with our gradient of the image
        (12, 1, 2, 1),
        (12, 3, 1, 1),  # with XLA's gradients
        (12, 1, 2, 0),  # as a matrix product
        (12, 4, 4, 0),
    ],
)
def test_convolve(side, kernel, stride, padding):
    def theirs(x, k):
        pads = [(padding, padding)] * 2
        return jax.lax.conv_general_dilated(
            x, k, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(x, k):
        return arithmetic.convolve(x, k, (stride, stride), [(padding, padding)] * 2)

    agree(ours, theirs, normal(0, 3, side, side, 4), normal(1, kernel, kernel, 4, 6))


@pytest.mark.parametrize(
    ("n", "tokens"),
    [(2, 5), (1, 300), (2, 300), (3, 300)],  # whole; split by heads, by both, by images
)
def test_attend(n, tokens):
    agree(arithmetic.attend, attention, 3 * normal(0, n, tokens, 3, 3, 8))


def attention(qkv):
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    weights = jax.nn.softmax(q @ k.swapaxes(-2, -1) / jnp.sqrt(q.shape[-1]))
    return (weights @ v).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("tokens", [1, 300])
def test_attend_one_query(tokens):
    """Equals the first token's output of full attention."""

    def theirs(x, kernel, bias):
        return attention(jnp.einsum("ntd,dchs->ntchs", x, kernel) + bias)[:, 0]

    def ours(x, kernel, bias):
        query = jnp.einsum("nd,dhs->nhs", x[:, 0], kernel[:, 0]) + bias[0]
        return arithmetic.attend_one_query(query, x, kernel[:, 1], kernel[:, 2]) + bias[2]

    agree(ours, theirs, normal(0, 2, tokens, 12), normal(1, 12, 3, 3, 4), normal(2, 3, 3, 4))


def test_gelu():
    x = jnp.concatenate([jnp.linspace(-12, 12, 1001), jnp.array([-100.0, 100.0])])
    agree(arithmetic.gelu, lambda x: jax.nn.gelu(x, approximate=False), x)
    check_grads(arithmetic.gelu, (x[400:600:20],), order=2, modes=["fwd", "rev"])


def test_max_pool():
    def theirs(x):
        window, stride = (1, 3, 3, 1), (1, 2, 2, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, stride, "VALID")

    agree(arithmetic.max_pool, theirs, jnp.round(normal(0, 2, 11, 13, 3)))  # with ties
