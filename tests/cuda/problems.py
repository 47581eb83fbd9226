"""What the tests of all forms on device arrays share: problems, comparisons, refusals."""

import re

import kinds
import numpy as np
import pytest
from test_score_gradient import on_paths
from test_tree import rms

from fffnb import cuda
from fffnb.activations import ACTIVATIONS

#: Of float32 and float64 for the size of the terms of a sum, else half a unit for the result.
BOUND = {"float32": 2e-6, "float64": 1e-13}
HALF_UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


class Problem:
    """A layer and a batch of one kind of arrays, without samples that may go another way.

    A form says what its ops, its reference and its parameters are, and what draws the arrays of a
    case (n_in, n_out, depth, n_trees, activation, batch, bias).
    """

    forward_op = backward_op = reference = draw = None
    parameters = ()

    def __init__(self, kind, case, dtype, seed=0, put=None, **options):
        *sizes, self.activation, batch, bias = case
        real, put = "float64" if dtype == "float64" else "float32", put or kind.put
        drawn = self.draw(*sizes, batch, real, bias=bias, seed=seed, **options)
        names = "x", *self.parameters, "bias", "grad_y"
        host = dict(zip(names, drawn, strict=True))
        for name in ("x", *self.parameters, "grad_y"):
            host[name] = kinds.round_to(host[name], dtype)
        truth = self.reference.forward(*list(host.values())[:-1], self.activation)
        self.clear = ~truth.ambiguous(np.finfo(real).eps)
        for name in ("x", "grad_y"):
            host[name] = host[name][self.clear]
        self.kind, self.dtype, self.host = kind, dtype, tuple(host.values())
        for name, array in host.items():
            stored = real if name == "bias" else dtype
            setattr(self, name, None if array is None else put(array, stored))

    def forward(self, **change):
        names = "x", *self.parameters, "bias", "activation"
        return self.forward_op(**{**{name: getattr(self, name) for name in names}, **change})

    def backward(self, trace, **change):
        given = {name: getattr(self, name) for name in ("grad_y", "x", *self.parameters)}
        return self.backward_op(**{**given, "trace": trace, **change})

    def truth(self, **change):
        """Return leaves, results, and the sizes of their terms."""
        *layer, grad_y = self.host
        run = self.reference.forward(*layer, self.activation)
        grads = self.reference.backward(grad_y, *layer, self.activation, **change)
        sizes = self.reference.backward(grad_y, *layer, self.activation, absolute=True, **change)
        size = self.reference.forward_size(*layer, self.activation)
        return run, (run.y, *grads), (size, *sizes)


def compare(given, results, right, sizes):
    """Compare results, None where a bias is, with the truth and the sizes of its terms."""
    for found, expected, size in zip(results, right, sizes, strict=True):
        if found is None:
            assert given.bias is None
            continue
        assert isinstance(found, given.kind.type)
        found = given.kind.get(found)
        assert found.shape == expected.shape
        if given.dtype in BOUND:
            assert found.dtype == given.dtype
            assert rms(found - expected) <= BOUND[given.dtype] * rms(size)
        else:
            assert rms(found - expected) <= HALF_UNIT[given.dtype] * rms(expected) + 1e-9


def check(given, settings):
    """Compare a forward pass under each setting, and a backward pass, with the reference.

    A setting is a name and what is there meanwhile; under the last one, results without a trace
    have the same bits. Return the number of samples, and that of unclear ones.
    """
    run, right, sizes = given.truth()
    for setting in settings:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*setting)
            y, trace = given.forward(return_trace=True)
            if setting == settings[-1]:
                untraced = given.kind.get(given.forward())
        np.testing.assert_array_equal(given.kind.get(trace.leaves), run.leaves, str(setting))
        compare(given, [y], right[:1], sizes[:1])
    np.testing.assert_array_equal(given.kind.get(y), untraced)
    compare(given, [y, *given.backward(trace)], right, sizes)
    return len(given.clear), np.sum(~given.clear)


def check_all(problems, settings):
    """Check problems, few samples of which are unclear."""
    samples, unclear = np.sum([check(given, settings) for given in problems], axis=0)
    assert unclear <= 0.01 * samples


def check_added(given):
    """Compare a backward pass, to which a gradient of scores is added, with the reference."""
    run, *_ = given.truth()
    _, trace = given.forward(return_trace=True)
    real = "float64" if given.dtype == "float64" else "float32"
    values = np.random.default_rng(8).standard_normal(tuple(trace.scores.shape)).astype(real)
    _, right, sizes = given.truth(added=on_paths(values, run.mask))
    grads = given.backward(trace, grad_scores=given.kind.put(values))
    compare(given, grads, right[1:], sizes[1:])


def cases_for(tiles, small, small_on_gpu, large):
    """Return the cases for tiles of a size, where tests run."""
    if tiles == "default":
        return large
    return small if kinds.SIMULATED else small + small_on_gpu


def check_factors(cases, rows, tables):
    """Check that cases hold each activation, loads of each length, and each entry of the tables.

    `rows` are the rows of numbers that loads move, as slices of the sizes of a case.
    """
    *_, n_trees, activation, batch, bias = map(set, zip(*cases, strict=True))
    assert activation == set(ACTIVATIONS)
    assert n_trees == {1, 2, 3}
    assert bias == {True, False}
    for row in rows:
        lengths = {cuda.tree.vector_length("float32", *case[row]) for case in cases}
        assert lengths == {1, 2, 4}
    for table in tables:
        assert {cuda.tree.by_batch(table, size) for size in batch} == set(table.values())


def check_rows(kind, gradient, dense, visited, n_places):
    """Check that the row gradient of n_places has the visited rows of a dense one, and no others.

    `dense` gives (n_rows, width), or (n_rows,) for biases.
    """
    rows, values = kind.get(gradient.rows), kind.get(gradient.values)
    assert rows.shape == (n_places,)
    np.testing.assert_array_equal(kind.get(gradient.count), [len(visited)])
    np.testing.assert_array_equal(rows[: len(visited)], visited)
    assert (rows[len(visited) :] == -1).all()
    assert isinstance(gradient.values, kind.type)
    np.testing.assert_array_equal(values[: len(visited)], dense[visited])
    assert not np.delete(dense, visited, axis=0).any()


def check_leading_axes(form, kind, lead):
    """Check that samples and all results have leading axes, and are the same as without."""
    given = form(kind, (9, 7, 3, 2, "gelu", int(np.prod(lead)), True), "float32", seed=1)
    assert given.clear.all()
    flat, flat_trace = given.forward(return_trace=True)
    flat_grads = given.backward(flat_trace)
    given.x, given.grad_y = given.x.reshape((*lead, 9)), given.grad_y.reshape((*lead, 7))
    out = kind.put(np.full((*lead, 7), np.nan, np.float32))
    y, trace = given.forward(out=out, return_trace=True)
    assert y is out
    grads = given.backward(trace)
    for found, expected, shape in (
        (y, flat, (7,)),
        (trace.scores, flat_trace.scores, (2, 3)),
        (trace.leaves, flat_trace.leaves, (2,)),
        (grads.x, flat_grads.x, (9,)),
    ):
        assert tuple(found.shape) == (*lead, *shape)
        np.testing.assert_array_equal(kind.get(found).ravel(), kind.get(expected).ravel())
    assert kind.get(trace.leaves).dtype == np.int32
    for found, expected in zip(grads[1:], flat_grads[1:], strict=True):
        np.testing.assert_array_equal(kind.get(found), kind.get(expected))
        assert kind.get(found).any() == bool(np.prod(lead))


def bits(array):
    """Return the bits of an array, those of any NaN being the same."""
    array = np.array(array)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return array.view(f"i{array.itemsize}")


def on_device(kind, rule):
    """Return a rule of which the state is on the device."""
    return rule._replace(state={key: kind.put(array) for key, array in rule.state.items()})


def strided(put, array):
    """Return an array that is not contiguous."""
    every = (slice(None),) * (array.ndim - 1)  # Numba knows no ellipsis
    return put(np.repeat(array, 2, axis=-1))[(*every, slice(None, None, 2))]


def shifted(kind, offset):
    """Return a put() of arrays that start so many numbers later than memory does."""

    def put(array):
        room = np.concatenate([np.zeros(offset, array.dtype), array.ravel()])
        return kind.put(room)[offset:].reshape(array.shape)

    return put


class Good:
    """Good arguments of a forward pass on one kind of arrays, and what it gives for them."""

    def __init__(self, kind, op, host):
        self.kind, self.put, self.op, self.host = kind, kind.put, op, host
        self.given = {name: kind.put(array) for name, array in host.items()}
        self.y, self.trace = op(**self.given, return_trace=True)
        self.expected = kind.get(self.y)

    def forward(self, **change):
        return self.op(**{**self.given, **change})

    def check(self):
        """Check that nothing was written and that the next call works."""
        for name, array in self.host.items():
            np.testing.assert_array_equal(self.kind.get(self.given[name]), array)
        np.testing.assert_array_equal(self.kind.get(self.forward()), self.expected)

    def refuses(self, error, words, *calls):
        """Check that calls fail, with the name and the type of the kind in their words."""
        name = f"{self.kind.type.__module__}.{self.kind.type.__qualname__}"
        for call in calls:
            with pytest.raises(error, match=words.format(self.kind.name, type=name)):
                call()
        self.check()


def refusals(host, table):
    """Return what every form refuses of the arguments of its forward pass: change, error, words.

    Of all arrays in `host`, `table` is the first parameter, which says where the op runs; the
    output is (batch, 2).
    """
    out = np.zeros((len(host["x"]), 2), np.float32)
    found = {
        f"host {table}": (
            lambda put: {table: host[table]},
            TypeError,
            f"({'|'.join(host)}) must be a numpy.ndarray, got {{type}}",
        ),
        f"int {table}": (
            lambda put: {table: put(host[table], "int32")},
            TypeError,
            f"{table} must be one of float32, float64, float16, bfloat16, got int32",
        ),
        "bias shape": (
            lambda put: {"bias": put(host["bias"][0])},
            ValueError,
            f"bias must have shape {shown(host['bias'])} .* got {shown(host['bias'][0])}",
        ),
        "out shape": (
            lambda put: {"out": put(host["x"])},
            ValueError,
            f"out must have shape {shown(out)} .* got {shown(host['x'])}",
        ),
        "activation": (
            lambda put: {"activation": "swish"},
            ValueError,
            "activation must be one of",
        ),
        "activations": (lambda put: {"activation": ["relu"]}, ValueError, "activation must be one"),
    }
    for name, array in {**host, "out": out}.items():
        found |= refusals_of(name, array, table)
    return found


def refusals_of(name, array, table):
    """Return what every form refuses of one of its arrays."""
    right = f"have the dtype of {table}, float32" if name != "bias" else "be float32 for .*float32"
    of_any = {
        f"strided {name}": (
            lambda put: {name: strided(put, array)},
            ValueError,
            f"{name} must be C-contiguous on the GPU, .* shape {shown(array)}",
        )
    }
    if name == table:
        return of_any
    return of_any | {
        f"host {name}": (
            lambda put: {name: array.copy()},
            TypeError,
            f"{name} must be a {{}} .* got numpy.ndarray",
        ),
        f"float64 {name}": (
            lambda put: {name: put(array, "float64")},
            TypeError,
            f"{name} must {right}, got float64",
        ),
    }


def shown(array):
    """Return how a message shows a shape, as a pattern."""
    return re.escape(str(array.shape))
