"""Published speed-ups beside ours: how many times as long a dense layer takes on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .cases import ULTRAFASTBERT, Case
from .table import Result

#: The columns of each dense layer; the fastest of them counts.
FEED_FORWARD = ("ff", "torch_ff", "ff_compiled")
PUBLISHED_FEED_FORWARD = ("ff_published",)
LINEAR = ("linear", "nn.Linear", "linear_compiled")


class Claim(NamedTuple):
    """A published speed-up of one shape over a dense layer.

    Attributes
    ----------
    source : str
        Who claims it.
    shape : tuple of int
        n_in, n_out, depth, batch.
    against : tuple of str
        The columns of the dense layer.
    published : float
        How many times as long that takes, as published.
    """

    source: str
    shape: tuple[int, int, int, int]
    against: tuple[str, ...]
    published: float


#: UltraFastBERT measured batch 16384 against width 3072; its claim is read for any batch, and for
#: the width of the tree. The original project's README gives 20 for 16384 → 16384, its analysis of
#: the second paper's benchmark 42, 60 and 69.
CLAIMS = (
    Claim("UltraFastBERT", (768, 768, 12, 1), FEED_FORWARD, 78),
    Claim("UltraFastBERT", (768, 768, 12, 128), FEED_FORWARD, 78),
    Claim("UltraFastBERT", ULTRAFASTBERT[:4], FEED_FORWARD, 78),
    Claim("UltraFastBERT", ULTRAFASTBERT[:4], PUBLISHED_FEED_FORWARD, 78),
    Claim("layer benchmark", (16384, 16384, 14, 1), LINEAR, 20),
    Claim("second paper", (8000, 8000, 9, 1), PUBLISHED_FEED_FORWARD, 42),
    Claim("second paper", (8000, 8000, 9, 10), PUBLISHED_FEED_FORWARD, 60),
    Claim("second paper", (8000, 8000, 9, 100), PUBLISHED_FEED_FORWARD, 69),
)


def restated(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Return the claims about these results with what was measured and what operations allow."""
    by_shape = {Case.of(result)[:4]: result for result in results}
    return [_restated(claim, by_shape[claim.shape]) for claim in CLAIMS if claim.shape in by_shape]


def _restated(claim: Claim, result: Result) -> dict[str, Any]:
    case, seconds = Case.of(result), result["seconds"]
    times = [seconds[column] for column in claim.against if seconds.get(column) is not None]
    if claim.against == LINEAR:
        dense, numbers = "linear layer", case.n_in * case.n_out
    else:
        width = case.widths[0]
        if claim.against == PUBLISHED_FEED_FORWARD and case.published_width:
            width = case.published_width
        dense, numbers = f"dense FF of {width:,}", width * (case.n_in + case.n_out)
    return {
        "source": claim.source,
        "case": case.name,
        "against": dense,
        "published": claim.published,
        "measured": min(times) / seconds["forward"] if times else None,
        "limit": numbers / (case.depth * (case.n_in + case.n_out)),
    }


def show(claims: Iterable[dict[str, Any]]) -> None:
    """Print the claims."""
    print("claims: how many times as long the dense layer takes; the limit is that of operations")
    print(f"{'':16} {'':24} {'against':17} published   measured      limit")
    for claim in claims:
        measured = "–" if claim["measured"] is None else f"{claim['measured']:.3g}"
        print(
            f"{claim['source']:16} {claim['case']:24} {claim['against']:17} "
            f"{claim['published']:9.3g} {measured:>10} {claim['limit']:10.3g}"
        )
    print()
