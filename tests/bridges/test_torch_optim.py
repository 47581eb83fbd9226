"""Row gradients in PyTorch: optimisers, accumulation, state, and who refuses them."""

import copy
import gc
import importlib
import io
import pickle

import numpy as np
import pytest

from fffnb import nn

torch = pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")
bridge = importlib.import_module("fffnb.bridges.torch")

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
]
ROWS = {"n_trees": 2, "activation": "gelu", "bias": True, "dtype": np.float64, "gradient": "rows"}


def batches(n, size=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((size, 5)) for _ in range(n)]


def train(layer, optimizer, xs):
    for x in xs:
        optimizer.zero_grad()
        layer(torch.tensor(x)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(("name", "numbers"), CASES)
def test_rows_take_the_steps_of_numpys_optimisers(name, numbers):
    layer = bridge.FFF(5, 4, 3, **ROWS)
    array = layer.to_numpy()
    train(layer, getattr(bridge, name)(layer.parameters(), **numbers), batches(8))
    optimizer = getattr(nn, name)(array.parameters, **numbers)
    for x in batches(8):
        y, trace = array.forward(x)
        array.backward_update(2 * y, trace, optimizer)
    np.testing.assert_allclose(layer.nodes.detach(), array.nodes, rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.bias.detach(), array.bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "numbers"), CASES)
def test_other_parameters_take_the_steps_of_torch(name, numbers):
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(5, 5), bridge.FFF(5, 4, 3, **ROWS)).double()
    plain = copy.deepcopy(ours[:1])
    pairs = getattr(bridge, name), getattr(torch.optim, name)
    optimizers = [
        make(model.parameters(), **numbers)
        for make, model in zip(pairs, (ours, plain), strict=True)
    ]
    for x in batches(5):
        nodes = ours[1].nodes.detach().clone()
        train(ours, optimizers[0], [x])
        assert not torch.equal(nodes, ours[1].nodes)
        for mine, its in zip(ours[0].parameters(), plain.parameters(), strict=True):
            its.grad = mine.grad.clone()
        optimizers[1].step()
    for mine, its in zip(ours[0].parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize(("name", "numbers"), CASES)
def test_gradients_of_two_backward_passes_add_up(name, numbers):
    one, two = bridge.FFF(5, 4, 3, **ROWS), bridge.FFF(5, 4, 3, **ROWS)
    optimizers = [getattr(bridge, name)(layer.parameters(), **numbers) for layer in (one, two)]
    for x in batches(3):
        train(one, optimizers[0], [x])
        optimizers[1].zero_grad()
        for half in (x[:4], x[4:]):
            two(torch.tensor(half)).square().sum().backward()
        optimizers[1].step()
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(two.get_parameter(name), parameter, rtol=0, atol=1e-12)


def test_a_layer_may_be_used_twice():
    once, twice = bridge.FFF(5, 5, 3, **ROWS), bridge.FFF(5, 5, 3, **{**ROWS, "gradient": "dense"})
    for layer in (once, twice):
        layer(layer(torch.tensor(batches(1)[0]))).sum().backward()
    torch.testing.assert_close(once.nodes.grad.to_dense(), twice.nodes.grad, rtol=0, atol=1e-12)


def test_rows_that_are_not_visited_stay():
    layer = bridge.FFF(5, 4, 8, **ROWS)
    before = layer.nodes.detach().clone()
    optimizer = bridge.AdamW(layer.parameters(), lr=0.1)
    train(layer, optimizer, batches(1, size=1))
    moved = (layer.nodes != before).any(dim=2).sum(dim=1)
    assert moved.tolist() == [8, 8]
    assert optimizer.state[layer.nodes]["step"].sum() == 16


@pytest.mark.parametrize(("name", "numbers"), CASES[2:])
def test_the_state_round_trips(name, numbers):
    make = getattr(bridge, name)
    first, second = bridge.FFF(5, 4, 3, **ROWS), bridge.FFF(5, 4, 3, **ROWS)
    optimizer = make(first.parameters(), **numbers)
    train(first, optimizer, batches(3))
    file = io.BytesIO()
    torch.save((first.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    state, steps = torch.load(file)
    second.load_state_dict(state)
    other = make(second.parameters(), lr=9.0)
    other.load_state_dict(steps)
    for layer, own in ((first, optimizer), (second, other)):
        train(layer, own, batches(3, seed=1))
    assert torch.equal(first.nodes, second.nodes) and torch.equal(first.bias, second.bias)


def test_a_schedule_and_groups_set_the_learning_rate():
    layer, twin = bridge.FFF(5, 4, 3, **ROWS), bridge.FFF(5, 4, 3, **ROWS)
    groups = [{"params": [layer.nodes], "lr": 0.2}, {"params": [layer.bias], "lr": 0.0}]
    optimizer = bridge.SGD(groups, lr=9.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    bias = layer.bias.detach().clone()
    x = batches(1)[0]
    for lr in (0.2, 0.1):
        train(layer, optimizer, [x])
        schedule.step()
        train(twin, bridge.SGD([twin.nodes], lr=lr), [x])
    assert torch.equal(layer.nodes, twin.nodes) and torch.equal(layer.bias, bias)


def test_a_closure_is_called_and_hooks_run_once():
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])  # has torch hook its own step
    layer, calls = bridge.FFF(5, 4, 3, **ROWS), []
    optimizer = bridge.SGD(layer.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: calls.append("hook"))
    before = layer.nodes.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.tensor(batches(1)[0])).square().sum()
        loss.backward()
        calls.append("closure")
        return loss

    assert optimizer.step(closure) > 0
    assert calls == ["closure", "hook"] and not torch.equal(layer.nodes, before)


def test_a_step_between_forward_and_backward_is_noticed():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    optimizer = bridge.SGD(layer.parameters(), lr=0.1)
    x = torch.tensor(batches(1)[0])
    train(layer, optimizer, batches(1))
    y = layer(x)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_scaler_of_gradients_knows_rows():
    one, two = bridge.FFF(5, 4, 3, **ROWS), bridge.FFF(5, 4, 3, **ROWS)
    train(one, bridge.SGD(one.parameters(), lr=0.1), batches(3))
    optimizer = bridge.SGD(two.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for x in (*batches(3), np.full((6, 5), 1e200)):  # the last overflows, and is left out
        optimizer.zero_grad()
        scaler.scale(two(torch.tensor(x)).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert torch.equal(one.nodes, two.nodes)


def test_a_state_of_the_other_kind_of_gradient_is_refused():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    optimizer = bridge.AdamW(layer.parameters(), lr=0.1)
    train(layer, optimizer, batches(1))
    layer.gradient = "dense"
    with pytest.raises(ValueError, match="the state of dense gradients must count all steps"):
        train(layer, optimizer, batches(1))
    optimizer = bridge.AdamW(layer.parameters(), lr=0.1)
    train(layer, optimizer, batches(1))
    layer.gradient = "rows"
    with pytest.raises(ValueError, match="the state of rows must count the steps of each"):
        train(layer, optimizer, batches(1))


def test_an_optimiser_that_knows_no_rows_says_so():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        train(layer, torch.optim.AdamW(layer.parameters()), batches(1))


def test_torchs_plain_sgd_takes_rows():
    ours, theirs = bridge.FFF(5, 4, 3, **ROWS), bridge.FFF(5, 4, 3, **ROWS)
    train(ours, bridge.SGD(ours.parameters(), lr=0.1), batches(3))
    train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1), batches(3))
    torch.testing.assert_close(ours.nodes, theirs.nodes, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("SGD", {"lr": -1.0}), ("SGD", {"nesterov": True}), ("AdamW", {"betas": (1.0, 0.9)})],
)
def test_numbers_out_of_range_are_refused(name, numbers):
    with pytest.raises(ValueError, match=r"Invalid|Nesterov"):
        getattr(bridge, name)([torch.nn.Parameter(torch.ones(1))], **numbers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch has no GPU")
@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize(("name", "numbers"), CASES)
def test_a_gpu_takes_the_same_steps(name, numbers, in_backward):
    layer = bridge.FFF(5, 4, 3, **ROWS)
    there = copy.deepcopy(layer).cuda()
    train(layer, getattr(bridge, name)(layer.parameters(), **numbers), batches(6))
    optimizer = getattr(bridge, name)(there.parameters(), **numbers, in_backward=in_backward)
    for x in batches(6):
        optimizer.zero_grad()
        there(torch.tensor(x).cuda()).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(there.nodes.cpu(), layer.nodes, rtol=1e-11, atol=1e-11)


# Steps in the backward pass


@pytest.mark.parametrize(("name", "numbers"), CASES)
def test_steps_in_the_backward_pass_are_the_same_steps(name, numbers):
    def model(seed=0):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(5, 5), bridge.FFF(5, 4, 3, **ROWS)).double()

    apart, within = model(), model()
    make = getattr(bridge, name)
    train(apart, make(apart.parameters(), **numbers), batches(6))
    train(within, make(within.parameters(), **numbers, in_backward=True), batches(6))
    assert within[1].nodes.grad is None and within[1].bias.grad is None
    for one, two in zip(apart.parameters(), within.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_a_second_backward_pass_before_the_step_is_refused():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    optimizer = bridge.SGD(layer.parameters(), lr=0.1, in_backward=True)
    x = torch.tensor(batches(1)[0])
    layer(x).sum().backward()
    before = layer.nodes.detach().clone()
    y = layer(x)
    with pytest.raises(
        RuntimeError, match=r"call optimizer\.step\(\) before the next backward pass"
    ):
        y.sum().backward()
    assert torch.equal(layer.nodes, before)
    optimizer.step()
    y.sum().backward()
    assert not torch.equal(layer.nodes, before)


def test_the_optimiser_of_the_nodes_must_have_their_bias():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    optimizer = bridge.SGD([layer.nodes], lr=0.1, in_backward=True)
    x = torch.tensor(batches(1)[0])
    before = layer.nodes.detach().clone()
    with pytest.raises(RuntimeError, match="must have their bias too"):
        layer(x).sum().backward()
    assert torch.equal(layer.nodes, before)
    layer.bias.requires_grad_(False)
    layer(x).sum().backward()
    assert not torch.equal(layer.nodes, before) and not layer.bias.any()
    optimizer.add_param_group({"params": [layer.bias]})


def test_frozen_nodes_stay():
    layer = bridge.FFF(5, 4, 3, **ROWS).requires_grad_(False)
    before = layer.nodes.clone()
    optimizer = bridge.SGD(layer.parameters(), lr=0.1, in_backward=True)
    x = torch.tensor(batches(1)[0], requires_grad=True)
    layer(x).sum().backward()
    optimizer.step()
    assert torch.equal(layer.nodes, before) and x.grad.any()


def test_a_claim_ends_with_its_optimiser_and_survives_pickling():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    optimizer = bridge.SGD(layer.parameters(), lr=0.1, in_backward=True)
    x = torch.tensor(batches(1)[0])
    twin, its = pickle.loads(pickle.dumps((layer, optimizer)))
    before = layer.nodes.detach().clone()
    twin(x).sum().backward()
    assert twin.nodes.grad is None and not torch.equal(twin.nodes, before) and its
    del optimizer
    gc.collect()
    layer(x).sum().backward()
    assert layer.nodes.grad.is_sparse and torch.equal(layer.nodes, before)


def test_a_step_in_the_backward_pass_is_noticed_by_other_graphs():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    optimizer = bridge.SGD(layer.parameters(), lr=0.1, in_backward=True)
    x = torch.tensor(batches(1)[0])
    one, two = layer(x), layer(x)
    one.sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        two.sum().backward()


def test_rows_that_a_gradient_names_twice_are_summed():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    layer(torch.tensor(batches(1)[0])).square().sum().backward()
    gradient, before = layer.nodes.grad.coalesce(), layer.nodes.detach().clone()
    indices, values = gradient.indices(), gradient.values()
    twice = torch.cat([indices, indices], 1), torch.cat([values, values])
    layer.nodes.grad = torch.sparse_coo_tensor(*twice, before.shape, check_invariants=True)
    bridge.SGD([layer.nodes], lr=0.1).step()
    torch.testing.assert_close(
        layer.nodes.detach(), before - 0.2 * gradient.to_dense(), rtol=0, atol=1e-12
    )


def test_only_a_pass_that_wants_the_gradient_of_nodes_steps_them():
    layer = bridge.FFF(5, 4, 3, **ROWS)
    optimizer = bridge.SGD(layer.parameters(), lr=0.1, in_backward=True)
    before, x = layer.nodes.detach().clone(), torch.tensor(batches(1)[0]).requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.equal(layer.nodes, before) and grad.any()
    layer(x).sum().backward(inputs=[x])
    assert torch.equal(layer.nodes, before) and torch.equal(x.grad, grad)
    layer(x).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.nodes, before)


def test_a_step_in_the_backward_pass_is_refused_for_a_layer_used_twice():
    layer = bridge.FFF(5, 5, 3, **ROWS)
    optimizer = bridge.SGD(layer.parameters(), lr=0.1, in_backward=True)
    x = torch.tensor(batches(1)[0])
    with pytest.raises(RuntimeError, match="for another use of their layer in this one"):
        layer(layer(x)).sum().backward()
    optimizer.step()


def test_processes_that_train_together_take_no_step_in_the_backward_pass(monkeypatch):
    layer = bridge.FFF(5, 4, 3, **ROWS)
    before = layer.nodes.detach().clone()
    optimizer = bridge.SGD(layer.parameters(), lr=0.1, in_backward=True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="each process by its own gradient"):
        train(layer, optimizer, batches(1))
    assert torch.equal(layer.nodes, before)
