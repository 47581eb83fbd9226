"""The flat form: its operators, its function, and its module, with dense gradients."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from ... import nn
from ...nn.namespace import to_host
from ...ops.flat import flat_backward, flat_forward
from ...ops.flat_trace import FlatTrace
from ...ops.trace import activation_code
from .function import check_tensor
from .layer import copied, parameter
from .operators import DEVICES, lend, refuse_second, take


@torch.library.custom_op(
    "fffnb::flat_forward",
    mutates_args=(),
    device_types=DEVICES,
    schema="(Tensor x, Tensor planes, Tensor y_vectors, Tensor? bias, str activation) "
    "-> (Tensor, Tensor, Tensor)",
)
def forward(
    x: Tensor, planes: Tensor, y_vectors: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (..., n_out), scores (..., n_trees, depth) and leaves (..., n_trees)."""
    y, trace = flat_forward(
        lend(x.contiguous()),
        lend(planes),
        lend(y_vectors),
        bias=None if bias is None else lend(bias),
        activation=activation,
        return_trace=True,
    )
    return take(y), take(trace.scores), take(trace.leaves)


@forward.register_fake
def _(
    x: Tensor, planes: Tensor, y_vectors: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, ...]:
    lead, (n_trees, depth, _) = x.shape[:-1], planes.shape
    leaves = x.new_empty((*lead, n_trees), dtype=torch.int32)
    y = x.new_empty((*lead, y_vectors.shape[2]))
    return y, x.new_empty((*lead, n_trees, depth)), leaves


@torch.library.custom_op(
    "fffnb::flat_backward",
    mutates_args=(),
    device_types=DEVICES,
    schema="(Tensor grad_y, Tensor x, Tensor planes, Tensor y_vectors, Tensor scores, "
    "Tensor leaves, str activation, bool has_bias) -> (Tensor, Tensor, Tensor, Tensor)",
)
def backward(
    grad_y: Tensor,
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    scores: Tensor,
    leaves: Tensor,
    activation: str,
    has_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, planes, y vectors and bias; the last is empty without one."""
    shapes = tuple(planes.shape), tuple(y_vectors.shape)
    trace = FlatTrace(lend(scores), lend(leaves), activation, has_bias, *shapes)
    samples = lend(grad_y.contiguous()), lend(x.contiguous())
    grads = flat_backward(*samples, lend(planes), lend(y_vectors), trace)
    grad_bias = planes.new_empty(0) if grads.bias is None else take(grads.bias)
    return take(grads.x), take(grads.planes), take(grads.y_vectors), grad_bias


@backward.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    scores: Tensor,
    leaves: Tensor,
    activation: str,
    has_bias: bool,
) -> tuple[Tensor, ...]:
    grad_bias = planes.new_empty(planes.shape[:2] if has_bias else 0)
    likes = (each.new_empty(each.shape) for each in (x, planes, y_vectors))
    return *likes, grad_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep what the backward pass needs."""
    x, planes, y_vectors, bias, activation = inputs
    _, scores, leaves = output
    ctx.activation, ctx.has_bias = activation, bias is not None
    ctx.mark_non_differentiable(scores, leaves)
    ctx.save_for_backward(x, planes, y_vectors, scores, leaves)


def _gradients(ctx: Any, grad_y: Tensor, *unused: Any) -> tuple[Any, ...]:
    """Return the gradients of the arguments of `forward`."""
    grads = backward(grad_y, *ctx.saved_tensors, ctx.activation, ctx.has_bias)
    return *grads[:3], grads[3] if ctx.has_bias else None, None


forward.register_autograd(_gradients, setup_context=_keep)
backward.register_autograd(refuse_second)


def flat(
    x: Tensor,
    planes: Tensor,
    y_vectors: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "identity",
) -> Tensor:
    """Run the flat form, as `fffnb.flat_forward`, and let autograd record it.

    Parameters
    ----------
    x : Tensor, shape (..., n_in)
        Samples, of any strides. Under autocast they are cast to the dtype of the planes.
    planes, y_vectors, bias, activation
        As those of `fffnb.flat_forward`, float32 or float64 tensors.

    Returns
    -------
    Tensor, dtype of the planes, shape (..., n_out)
        The output.

    Raises
    ------
    TypeError, ValueError
        If an argument is no tensor of floats, or of a wrong dtype, shape or layout.
    RuntimeError
        If tensors lie on different devices.

    Notes
    -----
    All gradients are dense: a step writes and reads all y vectors. The choice of the path has no
    gradient; there are no gradients of gradients.

    Examples
    --------
    >>> import torch, fffnb
    >>> from fffnb.bridges.torch import flat
    >>> planes, y_vectors = map(torch.from_numpy, fffnb.init_flat(3, 2, depth=4))
    >>> flat(torch.ones(5, 3), planes, y_vectors).shape
    torch.Size([5, 2])
    """
    activation_code(activation)
    tensors = {"planes": planes, "y_vectors": y_vectors, "x": x, "bias": bias}
    for name, tensor in tensors.items():
        if tensor is not None:
            check_tensor(name, tensor, planes, "planes")
    if x.device.type in DEVICES and torch.is_autocast_enabled(x.device.type):
        x = x.to(planes.dtype)
    y: Tensor = forward(x, planes, y_vectors, bias, activation)[0]
    return y


class FlatFFF(torch.nn.Module):
    """Fast FeedForward layer of the flat form: one plane a level chooses the path in a tree.

    Parameters
    ----------
    n_in, n_out, depth, n_trees, activation, bias, rows, scheme, rng, dtype
        See `fffnb.nn.FlatFFF`, whose initial values the parameters have.
    device : torch.device or str, optional
        Where the parameters lie; by default on the CPU.

    Attributes
    ----------
    planes : Parameter, shape (n_trees, depth, n_in)
        The planes.
    y_vectors : Parameter, shape (n_trees, n_rows, n_out)
        The output vectors.
    bias : Parameter, shape (n_trees, depth), or None
        What is added to the scores.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fffnb.nn.FlatFFF`.

    Examples
    --------
    >>> import torch
    >>> from fffnb.bridges.torch import FlatFFF
    >>> layer = FlatFFF(64, 10, depth=5, n_trees=4, rows="patterns")
    >>> layer(torch.ones(3, 64)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        depth: int | None = None,
        *,
        n_trees: int = 1,
        activation: str = "identity",
        bias: bool = False,
        rows: Literal["nodes", "patterns"] = "nodes",
        scheme: Literal["sphere", "uniform"] = "sphere",
        rng: int | np.random.Generator | None = 0,
        dtype: DTypeLike = np.float32,
        device: Any = None,
    ) -> None:
        super().__init__()
        layer = nn.FlatFFF(
            n_in,
            n_out,
            depth,
            n_trees=n_trees,
            activation=activation,
            bias=bias,
            rows=rows,
            scheme=scheme,
            rng=rng,
            dtype=dtype,
        )
        self._hold(layer, device)

    @classmethod
    def from_numpy(cls, layer: nn.FlatFFF, *, device: Any = None) -> Self:
        """Return a layer of the same structure with copies of the parameters.

        Parameters
        ----------
        layer : fffnb.nn.FlatFFF
            The layer.
        device
            As that of the class.

        Returns
        -------
        FlatFFF
            The layer.
        """
        copies = {name: to_host(array) for name, array in layer.parameters.items()}
        module = cls.__new__(cls)
        super(FlatFFF, module).__init__()
        module._hold(layer.with_parameters(copies), device)
        return module

    def to_numpy(self) -> nn.FlatFFF:
        """Return NumPy's layer of the same structure with copies of the parameters.

        Returns
        -------
        fffnb.nn.FlatFFF
            The layer.
        """
        bias = None if self.bias is None else copied(self.bias)
        return nn.FlatFFF.of(self.activation, copied(self.planes), copied(self.y_vectors), bias)

    def _hold(self, layer: nn.FlatFFF, device: Any) -> None:
        """Take over the structure of a layer, and its arrays as parameters."""
        self.activation, self.rows = layer.activation, layer.rows
        self.planes = parameter(layer.planes, device)
        self.y_vectors = parameter(layer.y_vectors, device)
        bias = None if layer.bias is None else parameter(layer.bias, device)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., n_out) for samples x (..., n_in)."""
        return flat(x, self.planes, self.y_vectors, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        """Return the structure, as it is shown."""
        n_trees, depth, n_in = self.planes.shape
        return (
            f"n_in={n_in}, n_out={self.y_vectors.shape[2]}, depth={depth}, n_trees={n_trees}, "
            f"activation={self.activation!r}, bias={self.bias is not None}, rows={self.rows!r}"
        )
