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
def update_row(table, row, gradient, rule):
    """Take one optimiser step on table[row], which `steps` counts already."""
    kind, numbers, first, second, steps = rule
    if kind == STORE:
        copy(gradient, table[row])
    elif kind == SGD:
        sgd_row(table[row], gradient, numbers)
    elif kind == MOMENTUM:
        momentum_row(table[row], gradient, numbers, first[row])
    else:
        adamw_row(table[row], gradient, numbers, first[row], second[row], steps[row])


@helper
def copy(row, out):
    """Copy one row; unlike an assignment, this becomes vector code."""
    for j in range(len(row)):
        out[j] = row[j]


@helper
def sgd_row(parameter, gradient, numbers):
    """Step of torch's SGD without momentum."""
    real = parameter.dtype.type
    lr, decay = real(numbers[0]), real(numbers[2])
    for j in range(len(parameter)):
        parameter[j] -= lr * (gradient[j] + decay * parameter[j])


@helper
def momentum_row(parameter, gradient, numbers, velocity):
    """Step of torch's SGD with momentum, plain or Nesterov's."""
    real = parameter.dtype.type
    lr, momentum, decay = real(numbers[0]), real(numbers[1]), real(numbers[2])
    nesterov = numbers[3] != 0
    for j in range(len(parameter)):
        g = gradient[j] + decay * parameter[j]
        v = momentum * velocity[j] + g
        velocity[j] = v
        parameter[j] -= lr * (g + momentum * v if nesterov else v)


@helper
def adamw_row(parameter, gradient, numbers, mean, variance, step):
    """Step of torch's AdamW (Loshchilov and Hutter, arXiv:1711.05101)."""
    real = parameter.dtype.type
    lr, beta1, beta2 = numbers[0], numbers[1], numbers[2]
    eps, keep = real(numbers[3]), real(1 - lr * numbers[4])
    size = real(lr / (1 - beta1**step))
    scale = real(1 / (1 - beta2**step) ** 0.5)
    b1, b2 = real(beta1), real(beta2)
    new1, new2 = real(1 - beta1), real(1 - beta2)
    for j in range(len(parameter)):
        g = gradient[j]
        m = b1 * mean[j] + new1 * g
        v = b2 * variance[j] + new2 * g * g
        mean[j] = m
        variance[j] = v
        parameter[j] = keep * parameter[j] - size * m / (math.sqrt(v) * scale + eps)


@Kernel
def update_rows(table, rows, gradients, rule):
    """Take one optimiser step on each table[rows[r]] with gradients[r], which `steps` counts."""
    for r in prange(len(rows)):
        update_row(table, rows[r], gradients[r], rule)
