"""Optimisers against torch's, and schedules."""

import numpy as np
import pytest

from fffnb import RowGradient, nn

# Parameters [1, -2, 0.5] after four steps with the gradients of `gradient`, by torch 2.13.
TORCH = [
    (nn.SGD, {"lr": 0.1}, [0.7, -1.8399999999999999, 0.43999999999999995]),
    (
        nn.SGD,
        {"lr": 0.1, "weight_decay": 0.05},
        [0.6816457543749999, -1.8019925099999998, 0.43027450031250003],
    ),
    (
        nn.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05},
        [0.40126864187500005, -1.47121911, 0.3827397065625],
    ),
    (
        nn.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
        [0.14678348300293753, -1.3315594632210002, 0.32535068005378126],
    ),
    (nn.AdamW, {"lr": 0.1}, [0.6082350921930498, -1.6208062937845407, 0.2538143685643231]),
    (
        nn.AdamW,
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
        [0.784206397887216, -1.7792718441220987, 0.3621538190422712],
    ),
]
SETTINGS = [(kind, numbers) for kind, numbers, _ in TORCH]


def gradient(k):
    return np.array([0.3 * (k + 1), -0.7 + 0.2 * k, 0.1 * k])


@pytest.mark.parametrize(("kind", "numbers", "after"), TORCH)
def test_dense_steps_are_those_of_torch(kind, numbers, after):
    parameter = np.array([1.0, -2.0, 0.5])
    optimizer = kind({"p": parameter}, **numbers)
    for k in range(4):
        optimizer.step({"p": gradient(k)})
    np.testing.assert_allclose(parameter, after, rtol=1e-13)


@pytest.mark.parametrize(("kind", "numbers", "after"), TORCH)
def test_a_row_that_is_always_visited_takes_the_dense_steps(kind, numbers, after):
    parameter = np.array([[9.0, 9.0, 9.0], [1.0, -2.0, 0.5], [7.0, 7.0, 7.0]])
    optimizer = kind({"p": parameter}, **numbers)
    for k in range(4):
        optimizer.step({"p": RowGradient(np.array([1]), gradient(k)[None], None, 1)})
    np.testing.assert_allclose(parameter[1], after, rtol=1e-13)
    assert (parameter[0] == 9).all()
    assert (parameter[2] == 7).all()


@pytest.mark.parametrize(("kind", "numbers"), SETTINGS)
def test_lazy_rows_are_independent_dense_optimisers(kind, numbers):
    """Each row must move as if it alone were a parameter that steps when it is visited."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((6, 3))
    lazy = start.copy()
    alone = [row.copy() for row in start]
    optimizer = kind({"p": lazy}, **numbers)
    replay = [kind({"p": row}, **numbers) for row in alone]
    for _ in range(12):
        rows = np.flatnonzero(rng.random(6) < 0.4)
        values = rng.standard_normal((len(rows), 3))
        optimizer.step({"p": RowGradient(rows, values, None, len(rows))})
        for row, value in zip(rows, values, strict=True):
            replay[row].step({"p": value})
    np.testing.assert_allclose(lazy, alone, rtol=1e-12)


def test_a_dense_step_advances_all_rows():
    rng = np.random.default_rng(1)
    mixed, dense = np.ones((3, 2)), np.ones((3, 2))
    a, b = nn.AdamW({"p": mixed}), nn.AdamW({"p": dense})
    for k in range(6):
        values = rng.standard_normal((3, 2))
        if k % 2:
            a.step({"p": RowGradient(np.arange(3), values, None, 3)})
        else:
            a.step({"p": values})
        b.step({"p": values})
    np.testing.assert_allclose(mixed, dense, rtol=1e-12)


@pytest.mark.parametrize(("kind", "numbers"), SETTINGS)
def test_state_moves_to_another_optimiser(kind, numbers):
    one = np.array([1.0, -2.0, 0.5])
    first = kind({"p": one}, **numbers)
    for k in range(2):
        first.step({"p": gradient(k)})
    other = one.copy()
    second = kind({"p": other}, **numbers)
    second.load_state_dict(first.state_dict())
    for k in range(2, 4):
        first.step({"p": gradient(k)})
        second.step({"p": gradient(k)})
    np.testing.assert_array_equal(one, other)


def test_bad_arguments_are_refused():
    parameters = {"p": np.ones(3)}
    for make in (
        lambda: nn.SGD(parameters, lr=-1.0),
        lambda: nn.SGD(parameters, lr=float("nan")),
        lambda: nn.SGD(parameters, lr=0.1, nesterov=True),
        lambda: nn.AdamW(parameters, betas=(1.0, 0.9)),
        lambda: nn.AdamW(parameters, weight_decay=-0.1),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
    optimizer = nn.AdamW(parameters)
    with pytest.raises(KeyError, match="no parameter is called 'q'"):
        optimizer.step({"q": np.ones(3)})
    with pytest.raises(ValueError, match=r"gradient of 'p' must be .*got float64 of shape \(2,\)"):
        optimizer.step({"p": np.ones(2)})
    with pytest.raises(ValueError, match=r"gradient of 'p' must be float64"):
        optimizer.step({"p": np.ones(3, np.float32)})
    for state in ({"q": {}}, {"p": {"velocity": np.ones(3)}}, {"p": {"mean": np.ones(2)}}):
        with pytest.raises(ValueError, match="state"):
            optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="must not be negative"):
        optimizer.load_state_dict({"p": {"steps": np.array([-1])}})
    assert (parameters["p"] == 1).all()


def test_schedules():
    assert [nn.constant()(k) for k in (0, 9)] == [1, 1]
    cosine = nn.cosine(12, 0.1, warm_up=2)
    assert [cosine(0), cosine(1), cosine(2)] == [0.5, 1, 1]
    assert cosine(7) == pytest.approx(0.55)
    assert cosine(12) == cosine(99) == pytest.approx(0.1)
    step = nn.step(3, 0.5, warm_up=1)
    assert [step(k) for k in (0, 1, 3, 4, 7)] == [1, 1, 1, 0.5, 0.25]


def test_schedules_refuse_what_is_out_of_range():
    for make in (
        lambda: nn.cosine(2, warm_up=2),
        lambda: nn.step(0),
        lambda: nn.constant(warm_up=-1),
    ):
        with pytest.raises(ValueError, match="must"):
            make()


@pytest.mark.parametrize("make", [nn.SGD, nn.AdamW])
def test_parameters_that_cannot_be_updated_in_place_are_refused(make):
    frozen = np.ones((3, 2))
    frozen.flags.writeable = False
    for parameter in (np.ones((3, 2)).T, np.ones(3, int), np.ones(3, ">f8"), frozen, [1.0]):
        with pytest.raises((TypeError, ValueError), match="parameter 'p' must be"):
            make({"p": parameter}, lr=0.1)


def test_loaded_state_replaces_all_state():
    optimizer = nn.SGD({"p": np.ones(2)}, 0.1, momentum=0.9)
    optimizer.step({"p": np.ones(2)})
    optimizer.load_state_dict({})
    assert optimizer.state_dict() == {"p": {}}


def test_state_in_part_or_of_other_rows_is_refused():
    optimizer = nn.AdamW({"p": np.ones((6, 2))})
    moments = {"mean": np.zeros((6, 2)), "variance": np.zeros((6, 2))}
    with pytest.raises(ValueError, match="or nothing, got"):
        optimizer.load_state_dict({"p": moments})
    with pytest.raises(ValueError, match="one count per row"):
        optimizer.load_state_dict({"p": {**moments, "steps": np.array([3, 4])}})
