"""A transformer block with an FFF layer for its feed-forward part learns to reverse sequences."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fffnb.bridges.torch import FFF, AdamW

LENGTH, TOKENS, WIDTH = 8, 16, 64


class Block(nn.Module):
    """Self-attention, then the FFF layer, each after a norm and beside a shortcut."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.fff = FFF(WIDTH, WIDTH, depth=6, n_trees=2, activation="gelu", gradient="rows")

    def forward(self, x):
        """Return x (batch, length, width) after the block."""
        normed = self.norms[0](x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.fff(self.norms[1](x))


class Reverser(nn.Module):
    """Tokens and places, the block, and a guess of the token for every place."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.block, self.guess = Block(), nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens):
        """Return the scores (batch, length, TOKENS) of tokens (batch, length)."""
        return self.guess(self.block(self.tokens(tokens) + self.places(torch.arange(LENGTH))))


def main():
    """Train on random sequences, and print how many tokens of new ones come out right."""
    torch.manual_seed(0)
    model = Reverser()
    optimizer = AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        tokens = torch.randint(TOKENS, (64, LENGTH))
        optimizer.zero_grad()
        cross_entropy(model(tokens).flatten(0, 1), tokens.flip(1).flatten()).backward()
        optimizer.step()
    tokens = torch.randint(TOKENS, (1000, LENGTH))
    with torch.no_grad():
        right = (model(tokens).argmax(2) == tokens.flip(1)).float().mean()
    print(f"accuracy {right:.4f}")


if __name__ == "__main__":
    main()
