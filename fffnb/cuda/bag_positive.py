"""The bag of all positive nodes on the GPU: products of matrices, as in `soft`.

Nodes of all bags are one table, and scores (batch, n_rows). A node is chosen if its score is
positive, or NaN; what the others say is zero. No list of those is made that a sample chose: only
the device would know its length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from numba import cuda, int64

from .dense import Sizes, add_up, backward_products, forward_products
from .launch import KEPT, Call, Kernel, zero
from .simt import REAL, real_of, vector_length
from .steps import step_rows, store
from .tree import Operand
from .tree_walk import activate, derivative
from .update import STORE

__all__ = ["Sizes", "backward", "forward", "keep_chosen"]

#: Threads of a block that goes along scores, and of the one that lists rows.
BLOCK, LIST_BLOCK = 256, 512


@functools.lru_cache(KEPT)
def forward(sizes: Sizes, activation: int, has_bias: bool, traces: bool) -> Callable[..., None]:
    """Return run(...), a forward pass made ready.

    ``run(call, x, nodes, bias, scores, rows, y)`` writes y (batch, n_out), no rows and, if it
    `traces`, scores.
    """
    kind, n = real_of(sizes.kind), sizes.batch * sizes.n_rows
    score, mix = forward_products(sizes, has_bias)
    speak = find_coefs(kind, activation).bind(sizes.device, (-(-n // BLOCK), 1, 1), BLOCK)

    def run(call: Call, *arrays: Operand) -> None:
        x, nodes, bias, scores, _, y = arrays
        coefs = call.take(n, kind) if traces else scores
        score(call, x, nodes, scores, bias)
        speak(call.stream, scores, coefs, n)
        mix(call, coefs, nodes, y)

    return run


@functools.lru_cache(KEPT)
def backward(sizes: Sizes, activation: int, marks: bool) -> Callable[..., Operand]:
    """Return run(...), a backward pass made ready.

    ``run(call, grad_y, x, nodes, scores, grad_x, grad_nodes, grad_bias)`` writes the gradients of
    x, of nodes and, if it is not None, of the bias. If it `marks` nodes, it returns for each
    whether some sample chose it.
    """
    n_rows, batch, device = sizes.n_rows, sizes.batch, sizes.device
    kind, n = real_of(sizes.kind), batch * n_rows
    value, to_x, to_table = backward_products(sizes)
    weigh = find_slopes(kind, activation, marks).bind(device, (-(-n // BLOCK), 1, 1), BLOCK)
    to_bias = add_up(kind, batch, n_rows, device)

    def run(call: Call, *arrays: Operand) -> Operand:
        grad_y, x, nodes, scores, grad_x, grad_nodes, grad_bias = arrays
        slopes, coefs = (call.take(n, kind) for _ in range(2))
        marked = call.take(n_rows, "int32") if marks else scores
        if marks:
            zero(call.stream, marked, 4 * n_rows)
        value(call, grad_y, nodes, slopes)
        weigh(call.stream, scores, slopes, coefs, marked, n, n_rows)
        to_x(call, slopes, nodes, grad_x)
        to_table(call, slopes, coefs, x, grad_y, grad_nodes)
        if grad_bias is not None:
            to_bias(call, slopes, grad_bias)
        return marked

    return run


@functools.lru_cache(KEPT)
def keep_chosen(
    kind: str, width: int, n_rows: int, has_bias: bool, device: int
) -> Callable[..., None]:
    """Return run(...), which makes row gradients of dense ones.

    ``run(call, marks, grad_nodes, grad_bias, rows, count, values, biases)`` writes the marked
    nodes to rows (n_rows,), their number to count, and their gradients to values (n_rows, width)
    and, if there are, to biases (n_rows,).
    """
    listed = list_chosen(LIST_BLOCK).bind(device, (1, 1, 1), LIST_BLOCK)
    to = functools.partial(step_rows, n_rows=n_rows, device=device, kind=STORE, by_place=True)
    to_values = to(kind, vector_length(kind, width), width=width)
    to_biases = to(real_of(kind), 1, width=1)

    def run(call: Call, *arrays: Operand) -> None:
        marks, grad_nodes, grad_bias, rows, count, values, biases = arrays
        places = call.take(n_rows, "int64")
        listed(call.stream, marks, rows, places, count, n_rows)
        to_values(call, values, places, grad_nodes, store(places))
        if has_bias:
            to_biases(call, biases, places, grad_bias, store(places))

    return run


@functools.cache
def find_coefs(kind, activation):
    """Return the kernel that writes what each node says by its score, which may be in place."""
    real, block = REAL[kind], BLOCK

    def body(scores, coefs, n):
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        if i < n:
            score = scores[i]
            coefs[i] = real(0) if score <= real(0) else real(activate(activation, score))

    return Kernel(body, kind, ("real", "real", "int"))


@functools.cache
def find_slopes(kind, activation, marks):
    """Return the kernel that writes coefs, and makes gradients of scores from values in `slopes`.

    If it `marks`, it sets `marked` of the nodes that some sample chose.
    """
    real, block = REAL[kind], BLOCK

    def body(scores, slopes, coefs, marked, n, n_rows):
        i = cuda.blockIdx.x * block + cuda.threadIdx.x
        if i < n:
            score = scores[i]
            if score <= real(0):
                slopes[i] = real(0)
                coefs[i] = real(0)
            else:
                slopes[i] *= real(derivative(activation, score))
                coefs[i] = real(activate(activation, score))
                if marks:
                    marked[i % n_rows] = 1

    word = "int32" if marks else "real"
    return Kernel(body, kind, ("real", "real", "real", word, "int", "int"))


@functools.cache
def list_chosen(block):
    """Return the kernel of one block that lists marked rows, ascending, then -1 to the end.

    `places` (n_rows,) receives where each row is in the list, -1 for those that are not.
    """

    def body(marks, rows, places, count, n_rows):
        room = cuda.shared.array(block, int64)
        thread = cuda.threadIdx.x
        share = (n_rows + block - 1) // block
        first, last = thread * share, min(n_rows, (thread + 1) * share)
        own = int64(0)
        for row in range(first, last):
            own += 1 if marks[row] != 0 else 0
        room[thread] = own
        cuda.syncthreads()
        place, total = int64(0), int64(0)
        for other in range(block):
            if other < thread:
                place += room[other]
            total += room[other]
        for row in range(first, last):
            if marks[row] != 0:
                rows[place] = row
                places[row] = place
                place += 1
            else:
                places[row] = -1
        for end in range(total + thread, n_rows, block):
            rows[end] = -1
        if thread == 0:
            count[0] = total

    return Kernel(body, "float32", ("int32", "int64", "int64", "int64", "int"))
