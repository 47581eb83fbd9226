"""Soft training: the layer, the schedule of its temperature, and what the hard paths lose."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from ..ops.hardening import hardening_loss
from ..ops.soft import fff_backward_soft, fff_forward_soft
from ..ops.soft_trace import SoftTrace
from .evaluate import EVALUATION_BATCH, predict, share_right
from .layer import Array, Gradients, Layer, Observer, Several
from .layers import FFF
from .losses import check_labels
from .run import History
from .schedules import Schedule
from .soft_layer import SoftLayer, soft_layers


class SoftFFF(SoftLayer):
    """An FFF layer that trains all of its nodes softly, and takes hard paths when it is called.

    `forward` and `backward` are those of `fff_forward_soft`, calling the layer is calling `layer`.
    Training costs as much as that of a dense layer of as many neurons. In a file, the layer is the
    FFF.

    Parameters
    ----------
    layer : FFF
        The layer to train; its parameters are shared, not copied.
    temperature, gate, leak : float, str, float
        See `fff_forward_soft`; attributes that may be set between steps, as `Annealing` does.
    hardening : float, default 0
        Weight of the mean `hardening_loss`, whose gradient `backward` adds.
    rng : int, numpy.random.Generator or None, default 0
        Seed or generator of the leaks.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> layer = nn.SoftFFF(nn.FFF(64, 10, depth=5), temperature=0.5, hardening=0.1)
    >>> y, trace = layer.forward(np.ones((3, 64), np.float32))
    >>> y.shape, layer.config()["kind"]
    ((3, 10), 'FFF')
    """

    def __init__(
        self,
        layer: FFF,
        *,
        temperature: float = 1.0,
        gate: str = "sigmoid",
        leak: float = 0.0,
        hardening: float = 0.0,
        rng: int | np.random.Generator | None = 0,
    ) -> None:
        if not isinstance(layer, FFF):
            raise TypeError(f"layer must be an FFF, got {type(layer).__name__}")
        self._train_by(temperature, gate, leak, hardening, rng)
        self._hold(layer)

    def _hold(self, layer: FFF) -> None:
        self.layer, self.parameters = layer, layer.parameters
        self.n_in, self.n_out = layer.n_in, layer.n_out
        self.nodes, self.bias = layer.nodes, layer.bias
        self.neurons, self.neurons_read = layer.neurons, layer.neurons_read

    def __call__(self, x: Array) -> Array:
        """Return the output (..., n_out) for samples x (..., n_in), by hard paths."""
        return self.layer(x)

    def forward(self, x: Array) -> tuple[Array, tuple[Array, SoftTrace]]:
        """Return the soft output for x and what `backward` needs."""
        y, trace = fff_forward_soft(
            x,
            self.nodes,
            bias=self.bias,
            activation=self.layer.activation,
            n_out=self.n_out,
            **self._decisions(),
            return_trace=True,
        )
        return y, (x, trace)

    def backward(
        self, grad_y: Array, trace: tuple[Array, SoftTrace], *, sparse: bool = False
    ) -> tuple[Array, Gradients]:
        """Return the gradient of the input and those of nodes and bias, which are dense."""
        x, soft = trace
        grads = fff_backward_soft(grad_y, x, self.nodes, soft, grad_scores=self._grad_scores(soft))
        gradients: Gradients = {"nodes": grads.nodes}
        if grads.bias is not None:
            gradients["bias"] = grads.bias
        return grads.x, gradients

    def with_parameters(self, parameters: Mapping[str, Array]) -> Self:
        """Return a copy of the layer that uses other arrays."""
        layer = copy.copy(self)
        layer._hold(self.layer.with_parameters(parameters))
        return layer

    def observe(self, x: Array, see: Observer, name: str = "") -> Array:
        """Return the output for x by hard paths, and let `see` look at `layer`."""
        return self.layer.observe(x, see, name)

    def config(self) -> dict[str, Any]:
        """Return the structure of `layer` as a JSON object."""
        return self.layer.config()


class SoftHardGap(NamedTuple):
    """How a model does with soft paths, and with the hard ones that it is trained for.

    Attributes
    ----------
    soft, hard : float
        Share of samples classified rightly by soft and by hard paths, 0 to 1.
    entropy : float
        Mean entropy of the decisions in nats: see `hardening_loss`; the mean of several layers.
    """

    soft: float
    hard: float
    entropy: float


def soft_hard_gap(model: Layer, x: Array, labels: Array) -> SoftHardGap:
    """Return what a model with soft layers loses when it takes hard paths.

    Parameters
    ----------
    model : Layer
        A soft layer, such as SoftFFF, or a model that holds some.
    x : ndarray, shape (n, n_in)
        Samples, at least one.
    labels : ndarray of integers, shape (n,)
        Their classes.

    Returns
    -------
    SoftHardGap
        The named tuple (soft, hard, entropy), without leaks.

    Raises
    ------
    TypeError, ValueError
        If the model has no soft layer, or samples and labels do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> model = nn.SoftFFF(nn.FFF(2, 2, depth=3))
    >>> gap = nn.soft_hard_gap(model, np.eye(2, dtype=np.float32), np.array([0, 1]))
    >>> 0 < gap.entropy < 0.7
    True
    """
    model = model.with_parameters(model.parameters)  # a copy: its layers may stop leaking
    for layer in _found(model):
        layer.leak = 0.0
    outputs, total = [], 0.0
    for start in range(0, max(1, len(x)), EVALUATION_BATCH):
        batch = x[start : start + EVALUATION_BATCH]
        output, trace = model.forward(batch)
        outputs.append(output)
        entropies = [hardening_loss(each)[0] for each in _soft_traces(model, trace)]
        total += len(batch) * float(np.mean(entropies))
    soft = np.concatenate(outputs)
    check_labels("labels", labels, soft.shape)
    hard = predict(model, x)
    return SoftHardGap(share_right(soft, labels), share_right(hard, labels), total / len(x))


class Annealing:
    """Callback of `fit` that lowers the temperature of soft layers and reads out the gap.

    Parameters
    ----------
    model : Layer
        The model that is trained: a soft layer, such as SoftFFF, or a model that holds some.
    schedule : callable
        From the number of finished epochs, 0, 1, ..., to a factor on the temperature that each
        soft layer has now: see `constant`, `cosine` and `step`.
    held : (x, labels), optional
        Samples on which to read the gap after each epoch.

    Attributes
    ----------
    gaps : list of SoftHardGap
        What `soft_hard_gap` gave after each epoch, at the temperature of that epoch; empty without
        `held`.

    Raises
    ------
    TypeError
        If the model has no soft layer.

    Notes
    -----
    A checkpoint of `fit` holds the temperatures and the state of the leaks; a resumed run has the
    gaps of its own epochs alone.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb import nn
    >>> x = np.random.default_rng(0).standard_normal((256, 2)).astype(np.float32)
    >>> labels = (x[:, 0] > 0).astype(int)
    >>> model = nn.SoftFFF(nn.FFF(2, 2, depth=3), hardening=0.1)
    >>> annealing = nn.Annealing(model, nn.step(1, 0.5), held=(x, labels))
    >>> history = nn.fit(model, x, labels, epochs=3, callback=annealing)
    >>> model.temperature, len(annealing.gaps)
    (0.125, 3)
    """

    def __init__(
        self, model: Layer, schedule: Schedule, *, held: tuple[Array, Array] | None = None
    ) -> None:
        self.model, self.schedule, self.held = model, schedule, held
        self.gaps: list[SoftHardGap] = []
        self._bases = [(layer, layer.temperature) for layer in _found(model)]
        self.set_temperature(0)

    def __call__(self, epoch: int, history: History) -> None:
        """Read the gap of the epoch that has ended, and set the temperature of the next."""
        if self.held is not None:
            self.gaps.append(soft_hard_gap(self.model, *self.held))
        self.set_temperature(epoch)

    def set_temperature(self, epoch: int) -> None:
        """Set the temperature of all soft layers to that after a number of epochs."""
        for layer, base in self._bases:
            layer.temperature = base * self.schedule(epoch)


def _found(model: Layer) -> list[SoftLayer]:
    """Return the soft layers of a model, of which there must be one."""
    found = [layer for _, layer in soft_layers(model)]
    if not found:
        raise TypeError(
            f"model must hold a soft layer such as SoftFFF, got a {type(model).__name__} without"
        )
    return found


def _soft_traces(model: Layer, trace: Any) -> Iterator[Any]:
    """Yield what soft layers keep for `hardening_loss` in the trace of a forward pass."""
    if isinstance(model, SoftLayer):
        yield trace[1]
    elif isinstance(model, Several):
        for layer, part in zip(model.layers, trace, strict=False):  # more may follow the layers
            yield from _soft_traces(layer, part)
