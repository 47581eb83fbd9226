"""fit on a GPU with layers of every form: it learns what the CPU learns."""

import fake_cupy
import kinds
import numpy as np
import pytest

import fffnb
from fffnb import nn
from fffnb.nn import place
from fffnb.ops import device

if kinds.MISSING:
    pytest.skip(kinds.MISSING, allow_module_level=True)
if not kinds.SIMULATED:
    pytest.importorskip("array_api_compat")

pytestmark = pytest.mark.usefixtures("gpu", "tiles")

X = np.random.default_rng(0).standard_normal((5, 4))
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int64)


class Simulated(device.Kind):
    """Arrays of a CuPy that is made up, on which the simulator runs kernels."""

    name, type = "cupy.ndarray", fake_cupy.DeviceArray

    def __init__(self):
        self.simulated = kinds.Numba().type

    def contiguous(self, array):
        return array.flags.c_contiguous

    def address(self, array):
        return self.simulated(array.view(np.ndarray).reshape(-1))

    def device(self, array):
        return 0

    def stream(self, device):
        return 0

    def empty(self, shape, dtype, like):
        return np.full(shape, kinds.poison(dtype), dtype).view(self.type)


@pytest.fixture(scope="module")
def kind():
    return kinds.Numba() if kinds.SIMULATED else kinds.CuPy()


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with CuPy, made up in the simulator."""
    if not kinds.SIMULATED:
        return
    made_up, found = fake_cupy.Machine(eager=True).install(monkeypatch), device._kind_of_type
    here = Simulated()
    monkeypatch.setattr(
        device, "_kind_of_type", lambda of: here if issubclass(of, here.type) else found(of)
    )
    monkeypatch.setattr(place, "require_cupy", lambda: made_up)
    monkeypatch.setattr(place, "compat", lambda: None)


def balanced(layer):
    """Return a layer that is balanced by both means."""
    layer.score_loss, layer.balance_rate = fffnb.balance_loss, 0.01
    return layer


OPTIONS = {"n_trees": 2, "dtype": float}
BIASED = {**OPTIONS, "bias": True, "activation": "gelu"}
FORMS = {
    "tree": lambda: balanced(nn.FFF(4, 3, depth=3, straight_through=1.0, **BIASED)),
    "flat": lambda: balanced(nn.FlatFFF(4, 3, depth=2, rows="patterns", **BIASED)),
    "bag": lambda: nn.BagFFF(4, 3, n_nodes=5, k=2, **BIASED),
    "bag, positive": lambda: nn.BagFFF(4, 3, n_nodes=5, k=None, **BIASED),
    "keys": lambda: nn.ProductKeyFFF(4, 3, n_keys=3, k=2, **OPTIONS),
    "soft": lambda: nn.SoftFFF(nn.FFF(4, 3, depth=2, **BIASED), hardening=0.1),
    "leaf, mixed": lambda: nn.Mix(
        nn.LeafFFF(4, 3, depth=2, width=2, hardening=0.1, dtype=float), nn.Linear(4, 3, dtype=float)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_is_close_to_that_of_the_cpu(form):
    runs = []
    for place_ in ("cpu", "cuda"):
        model = FORMS[form]()
        optimizer = nn.SGD(model.parameters, lr=0.3, momentum=0.9)
        history = nn.fit(
            model, X, Y, optimizer=optimizer, epochs=1, batch_size=3, device=place_, seed=1
        )
        runs.append([history.loss, *model.parameters.values()])
        assert all(type(array) is np.ndarray for array in model.parameters.values())
    for one, other, before in zip(*runs, [None, *FORMS[form]().parameters.values()], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-10)
        assert before is None or (one != before).any()
