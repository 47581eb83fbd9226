"""The activation of a score: names, codes, and the scalar bodies that each device compiles."""

from __future__ import annotations

import math

#: Names in the order of their codes: ``ACTIVATIONS[code]``.
ACTIVATIONS = ("identity", "relu", "gelu", "relu2", "silu", "tanh")

IDENTITY, RELU, GELU, RELU2, SILU, TANH = range(len(ACTIVATIONS))

INV_SQRT_2 = 1.0 / math.sqrt(2.0)
INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


def activate(code: int, score: float) -> float:
    """Return act(score); a NaN score stays NaN."""
    if code == IDENTITY:
        return score
    if code == RELU:
        return 0.0 if score < 0.0 else score
    if code == GELU:
        return score * (0.5 * math.erfc(-score * INV_SQRT_2))
    if code == RELU2:
        return 0.0 if score < 0.0 else score * score
    if code == SILU:
        return score / (1.0 + math.exp(-score))
    return math.tanh(score)


def derivative(code: int, score: float) -> float:
    """Return act'(score); at the kink of relu it is 0."""
    if code == IDENTITY:
        return 1.0
    if code == RELU:
        return 1.0 if score > 0.0 else 0.0
    if code == GELU:
        density = math.exp(-0.5 * score * score) * INV_SQRT_2PI
        return 0.5 * math.erfc(-score * INV_SQRT_2) + score * density
    if code == RELU2:
        return 2.0 * score if score > 0.0 else 0.0
    if code == SILU:
        gate = 1.0 / (1.0 + math.exp(-score))
        return gate * (1.0 + score * (1.0 - gate))
    tanh = math.tanh(score)
    return 1.0 - tanh * tanh
