"""Optimiser steps on single rows, for row gradients and for the fused backward pass.

A rule is the tuple (kind, numbers, first, second, steps): `kind` is SGD, MOMENTUM or ADAMW, `first`
and `second` are the moments, shaped like the parameter's rows, `steps` counts the steps of each
row; what a kind does not use is empty. STORE writes the gradient itself.
"""

import math

from numba import prange

from .jit import Kernel, helper

SGD, MOMENTUM, ADAMW, STORE = range(4)


@helper
def update_row(table, row, gradients, g, rule):
    """Take one optimiser step on table[row] with gradients[g]; `steps` counts it already."""
    kind, numbers, first, second, steps = rule
    if kind == STORE:
        copy_row(gradients, g, table, row)
    elif kind == SGD:
        sgd_row(table, row, gradients, g, numbers)
    elif kind == MOMENTUM:
        momentum_row(table, row, gradients, g, numbers, first)
    else:
        adamw_row(table, row, gradients, g, numbers, first, second, steps)


@helper
def copy_row(table, row, out, at):
    """Copy one row; unlike an assignment, this becomes vector code."""
    for j in range(table.shape[1]):
        out[at, j] = table[row, j]


@helper
def sgd_row(table, row, gradients, g, numbers):
    """Step of torch's SGD without momentum."""
    real = table.dtype.type
    lr, decay = real(numbers[0]), real(numbers[2])
    for j in range(table.shape[1]):
        table[row, j] -= lr * (gradients[g, j] + decay * table[row, j])


@helper
def momentum_row(table, row, gradients, g, numbers, velocity):
    """Step of torch's SGD with momentum, plain or Nesterov's."""
    real = table.dtype.type
    lr, momentum, decay = real(numbers[0]), real(numbers[1]), real(numbers[2])
    nesterov = numbers[3] != 0
    for j in range(table.shape[1]):
        gradient = gradients[g, j] + decay * table[row, j]
        v = momentum * velocity[row, j] + gradient
        velocity[row, j] = v
        table[row, j] -= lr * (gradient + momentum * v if nesterov else v)


@helper
def adamw_row(table, row, gradients, g, numbers, mean, variance, steps):
    """Step of torch's AdamW (Loshchilov and Hutter, arXiv:1711.05101)."""
    real = table.dtype.type
    lr, beta1, beta2 = numbers[0], numbers[1], numbers[2]
    eps, keep = real(numbers[3]), real(1 - lr * numbers[4])
    size = real(lr / (1 - beta1 ** steps[row]))
    scale = real(1 / (1 - beta2 ** steps[row]) ** 0.5)
    b1, b2 = real(beta1), real(beta2)
    new1, new2 = real(1 - beta1), real(1 - beta2)
    for j in range(table.shape[1]):
        gradient = gradients[g, j]
        m = b1 * mean[row, j] + new1 * gradient
        v = b2 * variance[row, j] + new2 * gradient * gradient
        mean[row, j] = m
        variance[row, j] = v
        table[row, j] = keep * table[row, j] - size * m / (math.sqrt(v) * scale + eps)


@Kernel
def update_rows(table, rows, gradients, rule):
    """Take one optimiser step on each table[rows[r]] with gradients[r], which `steps` counts."""
    for r in prange(len(rows)):
        update_row(table, rows[r], gradients, r, rule)
