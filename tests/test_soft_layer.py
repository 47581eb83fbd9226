"""Soft training in the trainer: the layer, the schedule of the temperature, and the gap."""

import numpy as np
import pytest

import fffnb
from fffnb import nn


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="reads the digits that scikit-learn bundles")
    return fffnb.data.load("digits")


def train(digits, schedule):
    """Return the gaps of a run on the digits."""
    model = nn.SoftFFF(nn.FFF(64, 10, depth=6, bias=True, activation="gelu"), hardening=0.1)
    annealing = nn.Annealing(model, schedule, held=(digits.x_test, digits.y_test))
    optimizer = nn.AdamW(model.parameters, lr=1e-2)
    options = {"batch_size": 64, "epochs": 15, "callback": annealing}
    nn.fit(model, digits.x_train, digits.y_train, optimizer=optimizer, **options)
    return annealing.gaps


def test_annealing_closes_the_gap(digits):  # seeds 0 to 3 give 0.14 to 0.22 and -0.01 to 0.05
    warm = train(digits, nn.constant())
    cold = train(digits, nn.cosine(15, 0.1))
    assert len(warm) == len(cold) == 15
    assert warm[-1].soft > 0.9 and warm[-1].soft - warm[-1].hard > 0.1, warm[-1]
    assert cold[-1].hard > 0.8 and abs(cold[-1].soft - cold[-1].hard) < 0.08, cold[-1]
    assert cold[-1].entropy < 0.05 < warm[-1].entropy


X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(int)


def make(**options):
    """Return a model with a soft layer between others."""
    soft = nn.SoftFFF(nn.FFF(6, 5, depth=3, bias=True), **options)
    return nn.Sequential(nn.Linear(6, 6), nn.Sequential(soft, nn.GELU()), nn.Linear(5, 2)), soft


def test_a_soft_layer_is_called_hard_and_trains_softly():
    layer = nn.FFF(6, 5, depth=3, n_trees=2, bias=True, activation="silu")
    soft = nn.SoftFFF(layer, temperature=0.7, gate="smooth_step", hardening=0.5)
    assert soft.parameters is layer.parameters and soft.nodes is layer.nodes
    assert (soft.neurons, soft.neurons_read) == (14, 6)
    np.testing.assert_array_equal(soft(X), layer(X))
    y, trace = soft.forward(X)
    options = {"temperature": 0.7, "gate": "smooth_step", "activation": "silu"}
    right, path = fffnb.fff_forward_soft(
        X, layer.nodes, bias=layer.bias, return_trace=True, **options
    )
    np.testing.assert_array_equal(y, right)
    grad_x, gradients = soft.backward(y, trace)
    grad_scores = 0.5 * fffnb.hardening_loss(path)[1]
    wanted = fffnb.fff_backward_soft(y, X, layer.nodes, path, grad_scores=grad_scores)
    for found, expected in zip((grad_x, *gradients.values()), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_copy_with_other_parameters_is_called_with_them():
    model, soft = make()
    zeros = {name: np.zeros_like(array) for name, array in model.parameters.items()}
    assert not model.with_parameters(zeros).layers[1](X).any()
    assert soft(X).any()


@pytest.mark.parametrize(
    "make", [lambda: nn.SoftFFF(nn.FFF(6, 2, 2)), lambda: nn.LeafFFF(6, 2, 2, 3)]
)
def test_a_copy_with_other_parameters_is_annealed_too(make):
    """As a run on a GPU steps copies, and callbacks see the caller's model."""
    layer = make()
    other = layer.with_parameters({k: array.copy() for k, array in layer.parameters.items()})
    layer.temperature = 0.3
    assert other.temperature == 0.3
    other.load_training_state({**layer.training_state(), "temperature": 0.2})
    assert layer.temperature == 0.2


def test_a_file_holds_the_hard_layer(tmp_path):
    pytest.importorskip("safetensors", reason="files are safetensors")
    model, _ = make()
    nn.save_model(tmp_path / "soft.safetensors", model)
    loaded = nn.load_model(tmp_path / "soft.safetensors")
    assert type(loaded.layers[1].layers[0]) is nn.FFF
    np.testing.assert_array_equal(loaded(X), model(X))


def test_the_schedule_sets_the_temperature_and_the_gap_is_read_without_leaks():
    model, soft = make(temperature=2.0, leak=0.5)
    annealing = nn.Annealing(model, nn.step(2, 0.1), held=(X, LABELS))
    seen = []

    def callback(epoch, history):
        seen.append(soft.temperature)
        annealing(epoch, history)

    nn.fit(model, X, LABELS, epochs=3, callback=callback)
    assert seen == [2.0, 2.0, 0.2]
    assert soft.temperature == 0.2 and soft.leak == 0.5
    gap = nn.soft_hard_gap(model, X, LABELS)
    assert gap == nn.soft_hard_gap(model, X, LABELS)
    assert gap.hard == nn.accuracy(model, X, LABELS)
    annealing.set_temperature(0)
    assert soft.temperature == 2.0 and len(annealing.gaps) == 3


@pytest.mark.parametrize("generator", [0, np.random.Generator(np.random.MT19937(0))])
def test_a_resumed_run_is_the_run_that_was_not_stopped(generator, tmp_path):
    pytest.importorskip("safetensors", reason="files are safetensors")
    state = np.random.default_rng(generator).bit_generator.state

    def run(epochs, **options):
        rng = np.random.default_rng(generator)
        rng.bit_generator.state = state
        model, soft = make(temperature=2.0, leak=0.2, rng=rng)
        annealing = nn.Annealing(model, nn.step(1, 0.5))
        optimizer = nn.AdamW(model.parameters, lr=1e-2)
        options |= {"epochs": epochs, "callback": annealing, "batch_size": 16}
        nn.fit(model, X, LABELS, optimizer=optimizer, **options)
        return model.parameters, soft.temperature

    whole, temperature = run(4)
    path = tmp_path / "run.safetensors"
    run(2, checkpoint=path)
    resumed, again = run(4, checkpoint=path, resume=True)
    assert temperature == again == 2.0 / 16
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)


def test_a_hard_model_does_not_go_on_with_a_soft_run(tmp_path):
    pytest.importorskip("safetensors", reason="files are safetensors")
    layer, path = nn.FFF(6, 2, depth=3), tmp_path / "run.safetensors"
    nn.fit(nn.SoftFFF(layer), X, LABELS, epochs=1, checkpoint=path)
    with pytest.raises(
        fffnb.files.FileError, match=r"its soft layers are \[''\], here they are \[\]"
    ):
        nn.fit(layer, X, LABELS, epochs=2, checkpoint=path, resume=True)


REFUSED = [
    (lambda: nn.SoftFFF(nn.Linear(3, 2)), TypeError, "layer must be an FFF, got Linear"),
    (lambda: make(temperature=0), ValueError, "temperature must be a finite number above 0, got 0"),
    (lambda: make(leak=0.7), ValueError, "leak must be a probability from 0 to 0.5, got 0.7"),
    (lambda: make(gate="step"), ValueError, "gate must be one of sigmoid, smooth_step, got 'step'"),
    (lambda: make(hardening=-1.0), ValueError, "hardening must be at least 0.0, got -1.0"),
    (
        lambda: nn.soft_hard_gap(nn.FFF(6, 2), X, LABELS),
        TypeError,
        "model must hold a soft layer such as SoftFFF, got a FFF without",
    ),
    (lambda: nn.Annealing(nn.ReLU(), nn.constant()), TypeError, "model must hold a soft layer"),
    (lambda: nn.soft_hard_gap(make()[0], X[:0], LABELS[:0]), ValueError, "at least one sample"),
    (lambda: nn.soft_hard_gap(make()[0], X, LABELS[:3]), ValueError, "labels must be one label"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()
