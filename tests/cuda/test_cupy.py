"""CuPy: the layer on its arrays, on its streams, in memory of its pools."""

import kinds
import numpy as np
import pytest
from lanes import CuPyStreams

import fffnb
from fffnb import bridges, nn

if kinds.MISSING or kinds.SIMULATED:
    pytest.skip(kinds.MISSING or "the simulator has no CuPy", allow_module_level=True)

pytest.importorskip("array_api_compat", reason="layers on CuPy's arrays need fffnb[train]")

pytestmark = [
    pytest.mark.usefixtures("tiles"),
    pytest.mark.parametrize("tiles", ["default"], indirect=True),
]

RNG = np.random.default_rng(0)
BATCH, N_IN, N_OUT = 300, 96, 160
X = RNG.standard_normal((BATCH, N_IN)).astype(np.float32)
GRAD_Y = RNG.standard_normal((BATCH, N_OUT)).astype(np.float32)
OPTIONS = {"n_trees": 2, "activation": "gelu", "bias": True, "rng": 3}

POOLS = {
    "no pool": lambda cupy: None,
    "a pool": lambda cupy: cupy.cuda.MemoryPool(),
    "a pool of managed memory": lambda cupy: cupy.cuda.MemoryPool(cupy.cuda.malloc_managed),
    "the driver's pool": lambda cupy: cupy.cuda.MemoryAsyncPool(),
}


@pytest.fixture(scope="module")
def streams():
    return CuPyStreams()


@pytest.fixture(scope="module")
def kind(streams):
    return streams.kind


@pytest.fixture
def pool(request, kind):
    try:
        return POOLS[request.param](kind.cupy)
    except RuntimeError as error:
        pytest.skip(f"no such pool here: {error}")


in_any_pool = pytest.mark.parametrize("pool", POOLS, indirect=True)


def draw(backend, **changes):
    return fffnb.FFF(N_IN, N_OUT, 7, **{**OPTIONS, **changes}, backend=backend)


def within(kind, pool):
    """Return a context in which arrays are made in a pool."""
    return kind.cupy.cuda.using_allocator(None if pool is None else pool.malloc)


def train(layer, x, grad_y):
    """Return what forward, both forms of backward and a fused step give, and the parameters."""
    y, trace = layer.forward(x)
    grad_x, dense = layer.backward(grad_y, trace)
    rows = layer.backward(grad_y, trace, sparse=True)[1]["nodes"]
    layer.backward_update(grad_y, trace, nn.AdamW(layer.parameters, 0.01))
    return y, grad_x, dense["nodes"], dense["bias"], rows.rows, layer.nodes, layer.bias


def as_bytes(kind, results):
    return [kind.get(array).tobytes() for array in results]


@pytest.fixture
def inputs(kind):
    return kind.put(X), kind.put(GRAD_Y)


@pytest.fixture
def right(kind, inputs):
    """What `train` gives on the default stream, in the default pool."""
    return as_bytes(kind, train(draw("cupy"), *inputs))


def test_the_layer_is_numpys_with_arrays_of_cupy(kind):
    layer, host = draw("cupy"), draw("numpy")
    assert isinstance(layer, nn.FFF) and layer.config() == host.config()
    for name, array in host.parameters.items():
        assert type(layer.parameters[name]) is kind.type
        np.testing.assert_array_equal(kind.get(layer.parameters[name]), array)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("optimizer", [nn.SGD, nn.AdamW])
def test_a_step_is_that_of_numpy(kind, optimizer, sparse):
    stepped = []
    for backend, put in (("numpy", np.asarray), ("cupy", kind.put)):
        layer = draw(backend, dtype=float)
        y, trace = layer.forward(put(X.astype(float)))
        grad_x, gradients = layer.backward(put(GRAD_Y.astype(float)), trace, sparse=sparse)
        optimizer(layer.parameters, 0.01).step(gradients)
        stepped.append((y, grad_x, *layer.parameters.values()))
    for host, array in zip(*stepped, strict=True):
        assert type(array) is kind.type
        np.testing.assert_allclose(kind.get(array), host, rtol=1e-8, atol=1e-8)


def test_it_moves_there_and_back_as_copies(kind):
    host = draw("numpy")
    there = bridges.convert(host, "cupy")
    again = bridges.convert(there, "cupy")
    back = bridges.convert(again, "numpy")
    assert host.config() == there.config() == again.config() == back.config()
    for name, array in host.parameters.items():
        assert type(back.parameters[name]) is np.ndarray
        np.testing.assert_array_equal(back.parameters[name], array)
    there.nodes[...] = 7
    back.nodes[...] = 7
    np.testing.assert_array_equal(kind.get(again.nodes), host.nodes)
    assert not (host.nodes == 7).any()


def test_an_option_without_meaning_is_refused(kind):
    with pytest.raises(TypeError, match="backend 'cupy' takes no device"):
        draw("cupy", device="cuda")


def test_a_step_runs_on_the_stream_of_its_block(streams, kind, inputs, right):
    x, grad_y = inputs
    layer, late = draw("cupy"), kind.cupy.zeros_like(x)
    streams.wait()
    stream = streams.stream()
    with streams.on(stream):
        streams.delay()
        streams.copy(late, x)  # any other stream would still see zeros
        results = train(layer, late, grad_y)
    stream.synchronize()
    assert as_bytes(kind, results) == right


def test_streams_may_alternate(streams, kind, inputs, right):
    lanes = [streams.stream() for _ in range(3)]
    layers = [draw("cupy") for _ in lanes]
    streams.wait()
    results = []
    for layer, lane in zip(layers, lanes, strict=True):
        with streams.on(lane):
            results.append(train(layer, *inputs))
    streams.wait()
    assert [as_bytes(kind, found) for found in results] == [right] * len(lanes)


@in_any_pool
def test_memory_of_any_pool_gives_the_same_bits(streams, kind, pool, inputs, right):
    stream = streams.stream()  # a new one, whose scratch lies in the pool too
    with within(kind, pool), streams.on(stream):
        results = train(draw("cupy"), *inputs)
        stream.synchronize()
        if pool is not None:
            assert pool.used_bytes() >= sum(array.nbytes for array in results)
        assert as_bytes(kind, results) == right


@in_any_pool
def test_memory_that_is_given_back_is_used_again_in_order(streams, kind, pool, inputs):
    x, _ = inputs
    layer = draw("cupy")
    expected = as_bytes(kind, [layer(x)])
    streams.wait()
    stream = streams.stream()
    with within(kind, pool), streams.on(stream):
        for _ in range(3):
            streams.delay()
            y = layer(x.copy())  # the copy is given back before any kernel has run
            others = [kind.cupy.full(x.shape, np.nan, x.dtype) for _ in range(8)]
            assert as_bytes(kind, [y]) == expected
            del others


def test_a_pool_may_release_what_is_free(streams, kind, inputs, right):
    pool = kind.cupy.cuda.MemoryPool()
    with within(kind, pool), streams.on(streams.stream()):
        for _ in range(3):
            assert as_bytes(kind, train(draw("cupy"), *inputs)) == right
            pool.free_all_blocks()


def test_a_full_pool_is_said_and_leaves_nothing_behind(streams, kind, inputs, right):
    pool = kind.cupy.cuda.MemoryPool()
    refused = 0
    with within(kind, pool), streams.on(streams.stream()):
        for room in range(0, 1 << 24, 1 << 18):
            pool.free_all_blocks()
            pool.set_limit(size=pool.total_bytes() + room + 1)
            try:
                results = train(draw("cupy"), *inputs)
            except kind.cupy.cuda.memory.OutOfMemoryError:
                refused += 1
            else:
                break
        pool.set_limit(size=0)
        assert as_bytes(kind, results) == right
    assert refused > 1
