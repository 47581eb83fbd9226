"""Streams, graphs and scratch: what only a GPU has."""

import kinds
import numpy as np
import pytest
from lanes import CuPyStreams, TorchStreams

import fffnb
from fffnb.ops import device

if kinds.MISSING or kinds.SIMULATED:
    pytest.skip(kinds.MISSING or "the simulator has no streams", allow_module_level=True)

pytestmark = [
    pytest.mark.usefixtures("tiles"),
    pytest.mark.parametrize("tiles", ["default"], indirect=True),
]

NUMBERS = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.01, "nesterov": 0.0}
SGD = fffnb.UpdateRule("sgd", NUMBERS, {})


@pytest.fixture(scope="session", params=[TorchStreams, CuPyStreams], ids=lambda at: at.name)
def streams(request):
    return request.param()


@pytest.fixture
def kind(streams):
    return streams.kind


class Training:
    """A layer and all of its ops."""

    def __init__(self, kind, seed, n_in=96, n_out=160, depth=7, batch=300):
        rng = np.random.default_rng(seed)
        self.x_host = rng.standard_normal((batch, n_in)).astype(np.float32)
        self.x, self.grad_y, self.nodes, self.mine = (
            kind.put(array)
            for array in (
                self.x_host,
                rng.standard_normal((batch, n_out)).astype(np.float32),
                *[fffnb.init_nodes(n_in, n_out, depth, rng=seed)] * 2,
            )
        )

    def run(self):
        y, trace = fffnb.fff_forward(self.x, self.nodes, activation="gelu", return_trace=True)
        dense = fffnb.fff_backward(self.grad_y, self.x, self.nodes, trace)
        sparse = fffnb.fff_backward(self.grad_y, self.x, self.nodes, trace, sparse=True).nodes
        grad_x = fffnb.fff_backward_update(self.grad_y, self.x, self.mine, trace, SGD)
        self.kept = y, trace, dense, sparse, grad_x  # a graph of CuPy does not keep them
        return y, dense.x, dense.nodes, sparse.rows, sparse.count, grad_x, self.mine


def as_bytes(kind, results):
    return [kind.get(array).tobytes() for array in results]


def test_kernels_run_on_the_current_stream(streams, kind):
    layer = Training(kind, seed=0)
    other = Training(kind, seed=1)
    other.nodes = layer.nodes
    other.run()
    expected = kind.get(fffnb.fff_forward(other.x, layer.nodes))
    streams.wait()
    stream = streams.stream()
    with streams.on(stream):
        streams.delay()
        streams.copy(layer.x, other.x)  # any other stream would still see what was there
        y = fffnb.fff_forward(layer.x, layer.nodes)
        ops = getattr(device, type(kind).__name__)()
        assert ops.stream(0) == streams.handle(stream)
    streams.wait()
    np.testing.assert_array_equal(kind.get(y), expected)


def test_a_graph_replays_all_ops(streams, kind):
    layer, other = Training(kind, seed=2), Training(kind, seed=3)
    layer.run()
    streams.wait()
    replay, results = streams.capture(layer.run)
    for source in (other, layer):
        x = kind.put(source.x_host)
        eager = Training(kind, seed=2)
        eager.x = x
        expected = as_bytes(kind, eager.run())
        streams.copy(layer.x, x)
        streams.copy(layer.mine, layer.nodes)
        streams.wait()
        replay()
        streams.wait()
        assert as_bytes(kind, results) == expected


def test_two_graphs_replayed_at_once_do_not_share_scratch(streams, kind):
    layers = [Training(kind, seed=4, batch=2000), Training(kind, seed=5, batch=2000)]
    expected = [as_bytes(kind, layer.run()[:5]) for layer in layers]
    streams.wait()
    graphs = [streams.capture(layer.run) for layer in layers]
    lanes = [streams.stream(), streams.stream()]
    for _ in range(20):
        for (replay, _), lane in zip(graphs, lanes, strict=True):
            with streams.on(lane):
                replay()
    streams.wait()
    found = [as_bytes(kind, results[:5]) for _, results in graphs]
    assert found == expected
    layer = Training(kind, seed=4, batch=2000)  # eager calls do not share it either
    assert as_bytes(kind, layer.run()[:5]) == expected[0]


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_kernel_that_is_not_compiled_is_not_captured(streams, kind):
    layer = Training(kind, seed=6, n_in=52 if streams.name == "torch" else 44, n_out=36, depth=3)
    with pytest.raises(RuntimeError, match="capturing a graph, and this kernel is not compiled"):
        streams.capture(lambda: fffnb.fff_forward(layer.x, layer.nodes))
    streams.wait()
    y = kind.get(fffnb.fff_forward(layer.x, layer.nodes))
    assert np.isfinite(y).all()
    replay, captured = streams.capture(lambda: fffnb.fff_forward(layer.x, layer.nodes))
    replay()
    streams.wait()
    np.testing.assert_array_equal(kind.get(captured), y)


def test_scratch_is_used_again(streams, kind, monkeypatch):
    layer = Training(kind, seed=7)
    layer.run()
    made = []
    ops = getattr(device, type(kind).__name__)
    empty = ops.empty

    def count(self, shape, dtype, like):
        made.append(dtype)
        return empty(self, shape, dtype, like)

    monkeypatch.setattr(ops, "empty", count)
    out = kind.put(np.zeros((300, 160), np.float32))
    fffnb.fff_forward(layer.x, layer.nodes, out=out)
    assert made == []
    layer.run()
    assert "uint8" not in made


def test_streams_do_not_share_scratch(streams, kind):
    layers = [Training(kind, seed=8, batch=2000), Training(kind, seed=9, batch=2000)]
    expected = [as_bytes(kind, layer.run()[:5]) for layer in layers]
    lanes = [streams.stream(), streams.stream()]
    for _ in range(5):
        found = []
        streams.wait()
        for layer, lane in zip(layers, lanes, strict=True):
            with streams.on(lane):
                found.append(layer.run()[:5])
        streams.wait()
        assert [as_bytes(kind, results) for results in found] == expected
