"""Optimiser steps on pieces of rows; STORE writes the gradient itself.

A rule is five numbers, two moments shaped like the parameter, and the number of steps of each row;
what a kind does not use is any address.
"""

import functools
import math

from numba import cuda

from .launch import Kernel
from .simt import REAL, helper, mover

SGD, MOMENTUM, ADAMW, STORE = range(4)

#: Moments of each kind.
MOMENTS = {SGD: 0, MOMENTUM: 1, ADAMW: 2, STORE: 0}

#: What a rule adds to the signature of a kernel, and how many numbers it has.
RULE = ("real", "real", "int64", "float", "float", "float", "float", "float")
NUMBERS = 5

#: Threads of a block that steps rows.
BLOCK = 128


@functools.cache
def row_step(rule, kind, length):
    """Return read(...) and write(...), the two halves of a step of `length` numbers of a row.

    `read` puts the numbers at `at` and their moments at state[j], 3 * length of them; `write` steps
    them by gradient[g] and writes them back. Reads of several rows wait for memory together.
    `rule_of` is what a rule adds to the arguments of a kernel.
    """
    load, store = mover(kind, length)
    real, mean, variance, n_moments = REAL[kind], length, 2 * length, MOMENTS[rule]

    @helper
    def read(table, rule_of, at, state, j):
        if rule != STORE:
            load(table, at, state, j)
        if n_moments > 0:
            load(rule_of[0], at, state, j + mean)
        if n_moments > 1:
            load(rule_of[1], at, state, j + variance)

    if rule == STORE:

        @helper
        def write(table, rule_of, at, row, gradient, g, state, j):
            store(table, at, gradient, g)

    elif rule == SGD:

        @helper
        def write(table, rule_of, at, row, gradient, g, state, j):
            _, _, _, lr, _, decay, _, _ = rule_of
            lr, decay = real(lr), real(decay)
            for k in range(length):
                state[j + k] -= lr * (gradient[g + k] + decay * state[j + k])
            store(table, at, state, j)

    elif rule == MOMENTUM:

        @helper
        def write(table, rule_of, at, row, gradient, g, state, j):
            first, _, _, lr, momentum, decay, nesterov, _ = rule_of
            lr, momentum, decay = real(lr), real(momentum), real(decay)
            for k in range(length):
                slope = gradient[g + k] + decay * state[j + k]
                velocity = momentum * state[j + mean + k] + slope
                state[j + mean + k] = velocity
                state[j + k] -= lr * (slope + momentum * velocity if nesterov != 0 else velocity)
            store(first, at, state, j + mean)
            store(table, at, state, j)

    else:

        @helper
        def write(table, rule_of, at, row, gradient, g, state, j):
            first, second, steps, lr, beta1, beta2, eps, decay = rule_of
            count = float(steps[row])
            eps, keep = real(eps), real(1 - lr * decay)
            size = real(lr / -math.expm1(count * math.log(beta1)))  # 1 - beta1**count
            scale = real(1 / math.sqrt(-math.expm1(count * math.log(beta2))))
            b1, b2, new1, new2 = real(beta1), real(beta2), real(1 - beta1), real(1 - beta2)
            for k in range(length):
                slope = gradient[g + k]
                m = b1 * state[j + mean + k] + new1 * slope
                v = b2 * state[j + variance + k] + new2 * slope * slope
                state[j + mean + k], state[j + variance + k] = m, v
                state[j + k] = keep * state[j + k] - size * m / (math.sqrt(v) * scale + eps)
            store(first, at, state, j + mean)
            store(second, at, state, j + variance)
            store(table, at, state, j)

    return read, write


@functools.cache
def update_rows(rule, kind, length, by_place):
    """Return the kernel that steps each table[rows[r]]; a row of -1 is none.

    Its gradient is gradients[r] if they go `by_place`, else gradients[rows[r]].
    """
    (read, write), (load, _), real = row_step(rule, kind, length), mover(kind, length), REAL[kind]
    block, n_state = BLOCK, 3 * length

    def body(table, rows, gradients, width, first, second, steps, n0, n1, n2, n3, n4):
        rule_of = first, second, steps, n0, n1, n2, n3, n4
        gradient = cuda.local.array(length, real)
        state = cuda.local.array(n_state, real)
        r, row = cuda.blockIdx.x, rows[cuda.blockIdx.x]
        if row >= 0:
            place = r if by_place else row
            for j in range(cuda.threadIdx.x * length, width, block * length):
                load(gradients, place * width + j, gradient, 0)
                at = row * width + j
                read(table, rule_of, at, state, 0)
                write(table, rule_of, at, row, gradient, 0, state, 0)

    return Kernel(body, kind, ("stored", "int64", "stored", "int", *RULE))


@functools.cache
def count_rows():
    """Return the kernel that adds one to the steps of each row; a row of -1 is none."""
    block = BLOCK

    def body(rows, steps, n_rows):
        r = cuda.blockIdx.x * block + cuda.threadIdx.x
        if r < n_rows and rows[r] >= 0:
            steps[rows[r]] += 1

    return Kernel(body, "float32", ("int64", "int64", "int"))
