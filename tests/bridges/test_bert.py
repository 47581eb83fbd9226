"""A small random BERT whose feed-forward blocks are FFF layers: forward, training, saving."""

import copy
import importlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import fffnb
from fffnb import bridges, nn
from fffnb.reference import tree as reference

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'fffnb[bert]'")
transformers = pytest.importorskip(
    "transformers", reason="needs transformers: pip install 'fffnb[bert]'"
)

from fffnb.bridges.bert import (  # noqa: E402
    from_ultrafastbert,
    replace_feed_forward,
    set_feed_forward,
    to_ultrafastbert,
)

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))
masked = importlib.import_module("benchmarks.peers.masked")

WIDTH, DEPTH, TREES = 12, 4, 2
CONFIG = transformers.BertConfig(
    vocab_size=40,
    hidden_size=WIDTH,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=20,
    max_position_embeddings=16,
)
IDS = torch.from_numpy(np.random.default_rng(0).integers(0, 40, (5, 9)))


def draw(depth):
    """Return a layer for each block."""
    rng = np.random.default_rng(1)
    options = {"n_trees": TREES, "activation": "gelu", "bias": True, "dtype": float, "rng": rng}
    layers = [nn.FFF(WIDTH, WIDTH, depth, **options) for _ in range(CONFIG.num_hidden_layers)]
    for layer in layers:
        layer.bias[...] = rng.standard_normal(layer.bias.shape) / 5
    return layers


LAYERS = draw(DEPTH)


def bert(kind=transformers.BertModel, dtype=torch.float64, seed=0, **changes):
    """Return a random model without dropout."""
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIG)
    config.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **changes})
    return kind(config).to(dtype)


def blocks_of(model):
    return [m for m in model.modules() if type(m).__name__ == "BertLayer"]


def by_reference(layer):
    """Return a module that computes the scores of all nodes, and masks all but the path."""

    def forward(x):
        flat = x.detach().numpy().reshape(-1, WIDTH)
        y = reference.forward(flat, layer.nodes, layer.bias, layer.activation).y
        return torch.from_numpy(y).reshape(x.shape)

    module = torch.nn.Module()
    module.forward = forward
    return module


def by_masks(layer):
    """Return the same as a module of PyTorch, for its gradients."""
    module = masked.Masked(layer.n_in, layer.n_out, layer.depth, layer.n_trees).double()
    module.load_state_dict(to_ultrafastbert(layer))
    return module


def put(model, modules):
    """Put modules in the place of the feed-forward blocks, by hand."""
    for block, module in zip(blocks_of(model), modules, strict=True):
        block.intermediate = module
        block.output.dense = torch.nn.Identity()
    return model


def states(model):
    """Return the last hidden states without gradients."""
    with torch.no_grad():
        return model.eval()(IDS).last_hidden_state.numpy()


def loss_of(model):
    return model(IDS, labels=IDS.roll(1, 1)).loss


def test_all_nodes_by_matmul_masked_to_the_path_give_the_same():
    model = set_feed_forward(bert(), LAYERS)
    right = states(put(bert(), [by_reference(layer) for layer in LAYERS]))
    np.testing.assert_allclose(states(model), right, rtol=1e-10, atol=1e-10)
    assert not np.allclose(right, states(bert()), atol=1e-3)  # of the dense model, that is
    single = set_feed_forward(
        bert(dtype=torch.float32),
        [
            nn.FFF.of(WIDTH, "gelu", layer.nodes.astype("f4"), layer.bias.astype("f4"))
            for layer in LAYERS
        ],
    )
    np.testing.assert_allclose(states(single), right, rtol=1e-3, atol=1e-3)


def test_each_kind_of_layer_gives_the_same_bits():
    right = states(set_feed_forward(bert(), LAYERS))
    of_torch = [bridges.convert(layer, "torch") for layer in LAYERS]
    of_state = [
        from_ultrafastbert(to_ultrafastbert(layer), depth=DEPTH - 1, parallel_size=TREES)
        for layer in LAYERS
    ]
    for layers in (of_torch, of_state):
        np.testing.assert_array_equal(states(set_feed_forward(bert(), layers)), right)


def test_what_is_not_replaced_stays():
    model = bert()
    before = dict(model.named_parameters())
    assert set_feed_forward(model, LAYERS) is model
    after = dict(model.named_parameters())
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    names = ("intermediate.dense", "output.dense")
    of_block = {f"{name}.{half}" for name in names for half in ("weight", "bias")}
    assert gone == {f"encoder.layer.{i}.{name}" for i in range(3) for name in of_block}
    assert new == {
        f"encoder.layer.{i}.intermediate.{name}" for i in range(3) for name in ("nodes", "bias")
    }
    assert all(after[name] is before[name] for name in before.keys() & after.keys())


def test_new_layers_are_those_of_one_generator():
    model = replace_feed_forward(bert(), depth=DEPTH, n_trees=TREES, rng=5)
    rng = np.random.default_rng(5)
    for block in blocks_of(model):
        layer = nn.FFF(
            WIDTH, WIDTH, DEPTH, n_trees=TREES, activation="gelu", bias=True, rng=rng, dtype=float
        )
        found = block.intermediate.to_numpy()
        assert found.config() == layer.config()
        np.testing.assert_array_equal(found.nodes, layer.nodes)
    plain = replace_feed_forward(bert(), depth=2, activation="relu", bias=False)
    assert all(block.intermediate.bias is None for block in blocks_of(plain))
    assert blocks_of(plain)[0].intermediate.activation == "relu"


def test_replacing_again_replaces_the_layers():
    model = replace_feed_forward(bert(), depth=2)
    right = states(set_feed_forward(bert(), LAYERS))
    np.testing.assert_array_equal(states(set_feed_forward(model, LAYERS)), right)


def test_a_layer_that_is_given_twice_is_copied_twice():
    model = set_feed_forward(bert(), LAYERS[:1] * 3)
    with torch.no_grad():
        blocks_of(model)[0].intermediate.nodes.zero_()
    assert blocks_of(model)[1].intermediate.nodes.all() and LAYERS[0].nodes.all()


def test_a_model_that_is_evaluated_goes_on_so():
    model = replace_feed_forward(bert().eval(), depth=2)
    assert not any(module.training for module in model.modules())
    assert replace_feed_forward(bert().train(), depth=2).encoder.layer[0].intermediate.training


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_models_with_heads_have_the_same_blocks(kind):
    model = replace_feed_forward(bert(getattr(transformers, kind)), depth=3)
    assert len(blocks_of(model)) == 3
    assert all(isinstance(block.output.dense, torch.nn.Identity) for block in blocks_of(model))
    with torch.no_grad():
        assert torch.isfinite(model(IDS)[0]).all()


def test_a_block_alone_can_be_replaced():
    model = bert()
    replace_feed_forward(model.encoder.layer[1], depth=3)
    replaced = [hasattr(block.intermediate, "nodes") for block in blocks_of(model)]
    assert replaced == [False, True, False]


def test_gradients_equal_those_of_masks():
    model = set_feed_forward(bert(transformers.BertForMaskedLM), LAYERS)
    right = put(bert(transformers.BertForMaskedLM), [by_masks(layer) for layer in LAYERS])
    losses = [loss_of(model), loss_of(right)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    wanted = {name: parameter.grad for name, parameter in right.named_parameters()}
    for name, parameter in model.named_parameters():
        if "intermediate" not in name:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-8, atol=1e-12)
    for ours, theirs in zip(blocks_of(model), blocks_of(right), strict=True):
        halves = ours.intermediate.nodes.grad.flatten(0, 1).split(WIDTH, 1)
        pairs = (
            (halves[0], theirs.intermediate.linear_in.weight),
            (halves[1].T, theirs.intermediate.linear_out.weight),
            (ours.intermediate.bias.grad.flatten(), theirs.intermediate.linear_in.bias),
        )
        for found, parameter in pairs:
            assert parameter.grad.any()
            torch.testing.assert_close(found, parameter.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("gradient", ["dense", "rows"])
def test_a_step_changes_the_visited_nodes_alone(gradient):
    model, layers, depth = bert(transformers.BertForMaskedLM), draw(8), 8
    set_feed_forward(model, layers, gradient=gradient)
    leaves = []
    for block in blocks_of(model):
        block.intermediate.register_forward_hook(
            lambda layer, x, y: leaves.append(layer.to_numpy().leaves(x[0].detach().numpy()))
        )
    optimizer = importlib.import_module("fffnb.bridges.torch").SGD(model.parameters(), lr=0.1)
    loss_of(model).backward()
    optimizer.step()
    for layer, block, reached in zip(layers, blocks_of(model), leaves, strict=True):
        visited = np.zeros(layer.nodes.shape[:2], bool)
        for tree in range(TREES):
            path = reached[..., tree].ravel() + 2**depth - 1
            for _ in range(depth):
                path = (path - 1) // 2
                visited[tree, path] = True
        changed = (block.intermediate.nodes.detach().numpy() != layer.nodes).any(axis=2)
        assert not visited.all()
        np.testing.assert_array_equal(changed, visited)


@pytest.mark.parametrize("gradient", ["dense", "rows"])
def test_it_learns(gradient):
    model = bert(transformers.BertForMaskedLM, torch.float32)
    replace_feed_forward(model, depth=DEPTH, gradient=gradient)
    optimizer = importlib.import_module("fffnb.bridges.torch").AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_chunks_and_checkpoints_change_nothing():
    model = set_feed_forward(bert(transformers.BertForMaskedLM), LAYERS)
    loss_of(model).backward()
    chunked = bert(transformers.BertForMaskedLM, chunk_size_feed_forward=3)
    set_feed_forward(chunked, LAYERS).train()
    older = chunked.gradient_checkpointing_enable  # up to transformers 5
    getattr(chunked, "activation_checkpointing_enable", older)({"use_reentrant": False})
    loss_of(chunked).backward()
    for one, other in zip(model.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=1e-12)


def test_a_state_dict_goes_into_another_model(tmp_path):
    model = set_feed_forward(bert(), LAYERS)
    other = replace_feed_forward(bert(seed=1), depth=DEPTH, n_trees=TREES, rng=9)
    assert not np.allclose(states(other), states(model))
    torch.save(model.state_dict(), tmp_path / "bert.pt")
    other.load_state_dict(torch.load(tmp_path / "bert.pt", weights_only=True))
    np.testing.assert_array_equal(states(other), states(model))
    third = replace_feed_forward(bert(seed=2), depth=DEPTH, n_trees=TREES)
    model.save_pretrained(tmp_path)
    files = importlib.import_module("safetensors.torch")
    third.load_state_dict(files.load_file(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(states(third), states(model))
    shallow = replace_feed_forward(bert(), depth=DEPTH - 1, n_trees=TREES)
    with pytest.raises(RuntimeError, match=r"size mismatch for encoder\.layer\.0"):
        shallow.load_state_dict(model.state_dict())


def of(n_in, n_out, dtype=float):
    return fffnb.FFF(n_in, n_out, depth=2, activation="gelu", dtype=dtype)


REFUSED = {
    "no module": (dict, [], TypeError, "model must be a torch.nn.Module, got dict"),
    "no BERT": (
        lambda: torch.nn.Linear(3, 3),
        [],
        ValueError,
        "must contain a BertLayer of transformers, got Linear without one",
    ),
    "half precision": (
        lambda: bert(dtype=torch.bfloat16),
        LAYERS,
        TypeError,
        "model must be float32 or float64, got bfloat16: replace its blocks before",
    ),
    "too few": (bert, LAYERS[:2], ValueError, "one for each BertLayer of the model, 3, got 2"),
    "too many": (bert, LAYERS + LAYERS, ValueError, "of the model, 3, got 6"),
    "another width": (
        bert,
        [*LAYERS[:2], of(WIDTH, 7)],
        ValueError,
        r"layers\[2\] must be 12 → 12, the hidden_size, got 12 → 7",
    ),
    "another dtype": (
        bert,
        [*LAYERS[:2], of(WIDTH, WIDTH, np.float32)],
        TypeError,
        r"layers\[2\] must be float64 like the model, got float32",
    ),
    "no FFF layer": (
        bert,
        [*LAYERS[:2], nn.Linear(WIDTH, WIDTH)],
        TypeError,
        "layer must be an FFF layer, got Linear",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_replaced(case):
    make, layers, error, message = REFUSED[case]
    model = make()
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else None
    with pytest.raises(error, match=message):
        set_feed_forward(model, layers)
    assert modules is None or list(model.modules()) == modules


def test_wrong_options_of_new_layers_are_refused():
    model = bert()
    modules = list(model.modules())
    with pytest.raises(ValueError, match="activation must be one of identity"):
        replace_feed_forward(model, depth=3, activation="gelu_new")
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        replace_feed_forward(model, depth=0)
    with pytest.raises(ValueError, match="gradient must be 'dense' or 'rows', got 'all'"):
        replace_feed_forward(model, depth=3, gradient="all")
    assert list(model.modules()) == modules


@pytest.mark.parametrize("name", ["intermediate", "output.dense", "output.LayerNorm"])
def test_another_build_of_the_block_is_refused(name):
    model = bert()
    for block in blocks_of(model):
        *owner, last = name.split(".")
        delattr(block.get_submodule(".".join(owner)), last)
    with pytest.raises(AttributeError, match=rf"BertLayer must have {name}.*got one of version"):
        replace_feed_forward(model, depth=3)


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_missing_library_is_named_with_the_extra(monkeypatch, name):
    monkeypatch.delitem(sys.modules, "fffnb.bridges.bert")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name} is not installed.*fffnb\[bert\]"):
        importlib.import_module("fffnb.bridges.bert")


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device("cuda")


def test_on_a_gpu_it_computes_the_same(gpu):
    right = states(set_feed_forward(bert(), LAYERS))
    model = set_feed_forward(bert().to(gpu), LAYERS).eval()
    assert all(parameter.device.type == "cuda" for parameter in model.parameters())
    with torch.no_grad():
        found = model(IDS.to(gpu)).last_hidden_state.cpu().numpy()
    np.testing.assert_allclose(found, right, rtol=1e-8, atol=1e-8)


def test_on_a_gpu_autocast_keeps_the_nodes(gpu):
    model = replace_feed_forward(bert(transformers.BertForMaskedLM, torch.float32), depth=4)
    model.to(gpu)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(IDS.to(gpu), labels=IDS.to(gpu)).loss
    loss.backward()
    for block in blocks_of(model):
        gradient = block.intermediate.nodes.grad
        assert gradient.dtype == torch.float32 and torch.isfinite(gradient).all()


def test_autocast_on_the_cpu_keeps_the_nodes():
    model = replace_feed_forward(bert(transformers.BertForMaskedLM, torch.float32), depth=4)
    right = loss_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model)
    loss.backward()
    torch.testing.assert_close(loss.float(), right, rtol=0.05, atol=0.05)
    assert blocks_of(model)[0].intermediate.nodes.grad.dtype == torch.float32


def test_the_example_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "bert_block.py"), run_name="__main__")
    printed = capsys.readouterr().out
    first, *_, last = (line for line in printed.splitlines() if "loss" in line)
    assert "reads 3,840" in printed and "step 0" in first and "given weights" in last


def test_the_benchmark_checks_and_shows_every_case(capsys):
    benchmark = importlib.import_module("benchmarks.bridges.bert")
    benchmark.show_blocks([3, 2000], 0.0, (8, 16, 3))
    benchmark.show_berts(
        0.0, {"hidden_size": 8, "num_hidden_layers": 1} | {"num_attention_heads": 2}, 3
    )
    lines = capsys.readouterr().out.splitlines()
    words = ["dense", "fffnb", "masked"]
    expected = [words, [*words, "rows"], words, words, [*words, "rows"]]
    assert [[word for word in [*words, "rows"] if word in line] for line in lines] == expected


def test_the_benchmark_refuses_a_wrong_block():
    benchmark = importlib.import_module("benchmarks.bridges.bert")
    layer = benchmark.draw_layer(8, 3)
    wrong = bridges.convert(layer, "torch")
    with torch.no_grad():
        wrong.nodes[0, 0, -1] += 0.1
    with pytest.raises(AssertionError, match="exceeds"):
        benchmark.check_blocks(layer, [wrong])
