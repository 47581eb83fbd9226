"""The gradients of leaves: each is summed by one owner, over the visits of its leaf.

Shapes as in `leaf_group`; in the order of the keys the visits of a leaf are adjacent.
"""

from __future__ import annotations

import functools

from numba import cuda, int64

from .launch import Kernel
from .layer import FEWEST
from .leaf_group import Leaves
from .order import SAMPLE
from .simt import REAL, helper, mover, peek, poke, vector_length

#: Neurons of a leaf of which a thread sums gradients.
SUMMED = 8

#: Teams of a block, which share the visits of a leaf, and visits that a thread reads at once, so
#: that they wait for memory together.
SHARES, AHEAD = 8, 4


@functools.cache
def find_leaves(n_leaves, block):
    """Return the kernel that writes where the keys of each leaf start, and where the last end."""

    def body(keys, starts, batch):
        leaf, t = cuda.blockIdx.x * block + cuda.threadIdx.x, cuda.blockIdx.y
        begin, end = t * batch, (t + 1) * batch
        if leaf <= n_leaves:
            while begin < end:
                middle = (begin + end) // 2
                if keys[middle] >> 32 < leaf:
                    begin = middle + 1
                else:
                    end = middle
            starts[t * (n_leaves + 1) + leaf] = begin

    return Kernel(body, "float32", ("int64", "int64", "int"))


@functools.cache
def name_neurons(width, block):
    """Return the kernel that lists the neurons of listed leaves, and counts them.

    The list of leaves ends with -1 for each place that the visits leave, and so does theirs.
    """

    def body(listed, count, neurons, n_neurons, n_places):
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        if i < n_places * width:
            leaf = listed[i // width]
            neurons[i] = leaf * width + i % width if leaf >= 0 else -1
        if i == 0:
            n_neurons[0] = count[0] * width

    return Kernel(body, "float32", ("int64", "int64", "int64", "int64", "int"))


@functools.cache
def sum_leaves(layer, by_place):
    """Return the kernel that writes the gradients of neurons and of their biases.

    A block sums some columns of some neurons of a leaf, those of the bias last; its teams share the
    visits of the leaf, of which `starts` (n_trees, n_leaves + 1) tell the places among the keys.
    What nobody visits is zero; `by_place` only what is `listed` is written, in its order.
    """
    lanes, teams, length, held = FEWEST, SHARES, layer.length, layer.tiles(SUMMED)[0]
    real, mask, ahead, threads = REAL[layer.kind], SAMPLE, AHEAD, FEWEST * SHARES
    load, store = mover(layer.kind, length)
    together = vector_length(layer.kind, layer.width, held)
    load_weights, _ = mover(layer.kind, together)
    n_in, n_out, size, width = layer.n_in, layer.n_out, layer.size, layer.width
    n_leaves, has_bias = layer.n_leaves, layer.has_bias
    n_values, n_weights, n_sums = ahead * length, ahead * held, held * length
    n_columns = gradient_columns(layer)
    n_room = (n_sums + length) * threads

    @helper
    def fetch(x, grad_y, sample, column, values, j):
        if column < n_in:
            load(x, sample * n_in + column, values, j)
        elif column < size:
            load(grad_y, sample * n_out + column - n_in, values, j)
        else:
            for k in range(length):
                values[j + k] = real(1)  # the bias has this input

    @helper
    def total_of(room, j, thread):
        """Return the sum of what the teams hold of a number."""
        total = real(0)
        for u in range(teams):
            total += peek(room, j * threads + u * lanes + thread % lanes)
        return total

    def body(keys, starts, listed, x, grad_y, coefs, slopes, neurons, hidden, outputs, n_trees):
        room = cuda.shared.array(n_room, real)
        values = cuda.local.array(n_values, real)
        weights = cuda.local.array(n_weights, real)
        sums = cuda.local.array(n_sums, real)
        whole = cuda.local.array(length, real)
        samples = cuda.local.array(ahead, int64)
        thread, own = cuda.threadIdx.x, int64(cuda.blockIdx.x)
        team, m0 = thread // lanes, cuda.blockIdx.y * held
        column = (cuda.blockIdx.z * lanes + thread % lanes) * length
        leaf = listed[own] if by_place else own
        if leaf < 0:
            return
        t = leaf // n_leaves
        begin, end = starts[leaf + t], starts[leaf + t + 1]
        for j in range(n_sums):
            sums[j] = real(0)
        for k in range(length):
            whole[k] = real(0)
        for i in range(begin + team, end, teams * ahead):
            for u in range(ahead):
                samples[u] = keys[min(i + u * teams, end - 1)] & mask
            for u in range(ahead):
                visit = (samples[u] * n_trees + t) * width + m0
                if column < n_columns:
                    fetch(x, grad_y, samples[u], column, values, u * length)
                for m in range(0, held, together):
                    if m0 + m < width and n_in <= column < size:
                        load_weights(coefs, visit + m, weights, u * held + m)
                    elif m0 + m < width:
                        load_weights(slopes, visit + m, weights, u * held + m)
            for u in range(ahead):
                if i + u * teams < end:
                    for k in range(length):
                        whole[k] += values[u * length + k]
                        for m in range(held):
                            j, weight = m * length + k, weights[u * held + m]
                            sums[j] = cuda.fma(weight, values[u * length + k], sums[j])
        for j in range(n_sums):
            poke(room, j * threads + thread, sums[j])
        for k in range(length):
            poke(room, (n_sums + k) * threads + thread, whole[k])
        cuda.syncthreads()
        if column >= n_columns:
            return
        for m in range(team, min(held, width - m0), teams):
            for k in range(length):
                values[k] = total_of(room, m * length + k, thread)
            neuron = own * width + m0 + m
            if column < size:
                store(neurons, neuron * size + column, values, 0)
            else:
                hidden[neuron] = values[0]
        if has_bias and team == 0 and m0 == 0 and n_in <= column < size:
            for k in range(length):
                values[k] = total_of(room, n_sums + k, thread)
            store(outputs, own * n_out + column - n_in, values, 0)

    signature = ("int64", "int64", "int64", *["real"] * 7, "int")
    return Kernel(body, layer.kind, signature), threads


def gradient_columns(layer: Leaves) -> int:
    """Return the columns of a gradient: those of a row, and a vector for the bias."""
    return layer.size + (layer.length if layer.has_bias else 0)
