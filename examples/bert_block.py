"""A BERT whose feed-forward blocks are FFF layers: new ones, and ones with given weights.

All weights are random and nothing is downloaded: this shows how it is done, not how well it works.
"""

import torch
from transformers import BertConfig, BertForMaskedLM

from fffnb.bridges.bert import from_ultrafastbert, replace_feed_forward, set_feed_forward

WIDTH, LAYERS, DEPTH = 192, 2, 10  # levels of a tree


def ultrafastbert() -> dict[str, torch.Tensor]:
    """Return random weights as a checkpoint of UltraFastBERT names them, one tree a layer."""
    neurons = 2**DEPTH - 1
    state = {}
    for i in range(LAYERS):
        state[f"layers.{i}.ffn.linear_in.weight"] = torch.randn(neurons, WIDTH) / WIDTH**0.5
        state[f"layers.{i}.ffn.linear_in.bias"] = torch.zeros(neurons)
        state[f"layers.{i}.ffn.linear_out.weight"] = torch.randn(WIDTH, neurons) / WIDTH**0.5
    return state


def main() -> None:
    """Print what a token reads, a few steps of training, and a loss with given weights."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=3
    )
    model = BertForMaskedLM(config)
    ids = torch.randint(1000, (4, 64))
    dense = 2 * WIDTH * config.intermediate_size
    print(f"a dense block has {dense:,} weights, and a token reads all of them")

    replace_feed_forward(model, depth=DEPTH)
    held = model.bert.encoder.layer[0].intermediate.nodes.numel()
    print(f"an FFF block has {held:,} weights, and a token reads {2 * WIDTH * DEPTH:,}")

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(5):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.2f}")

    state, edges = ultrafastbert(), DEPTH - 1  # which is what UltraFastBERT calls depth
    layers = [
        from_ultrafastbert(state, depth=edges, parallel_size=1, prefix=f"layers.{i}.ffn.")
        for i in range(LAYERS)
    ]
    set_feed_forward(model.eval(), layers)
    with torch.inference_mode():
        print(f"with given weights: loss {model(ids, labels=ids).loss.item():.2f}")


if __name__ == "__main__":
    main()
