"""What else a run looks at, for its record."""

from __future__ import annotations

from typing import Any

import numpy as np

from fffnb import nn
from fffnb.data import Dataset

#: Test samples whose scores are recorded after each epoch.
RECORDED = 1000


class Watch:
    """A callback of training with a result that JSON can hold; this one sees nothing."""

    def __init__(self, model: nn.Layer, data: Dataset) -> None:
        self.model, self.data = model, data

    def __call__(self, epoch: int, history: nn.History) -> None:
        """Look at the model after an epoch."""

    def result(self) -> dict[str, Any]:
        """Return what was seen; the model is now that of the chosen epoch."""
        return {}


class UsageWatch(Watch):
    """The share of the leaves that training samples reach, and of the samples in the busiest."""

    def result(self) -> dict[str, Any]:
        """Return the figures of each layer of trees."""
        return {
            name: {
                "used": float(np.mean(each.leaves > 0)),
                "busiest": float(each.leaves.max() / each.batch),
            }
            for name, each in nn.usage(self.model, self.data.x_train).items()
        }


class LevelWatch(Watch):
    """Right turns, |λ| and changed turns by level after each epoch, the mean over the trees."""

    def __init__(self, model: nn.Layer, data: Dataset) -> None:
        super().__init__(model, data)
        self.record = nn.LevelRecord(model, data.x_test[:RECORDED])

    def __call__(self, epoch: int, history: nn.History) -> None:
        """Look at the scores."""
        self.record(epoch, history)

    def result(self) -> dict[str, Any]:
        """Return three lists for each layer, a row an epoch, the first before training."""
        return {
            name: {
                field: [getattr(levels, field).mean(axis=0).tolist() for levels in epochs]
                for field in nn.LevelScores._fields
            }
            for name, epochs in self.record.layers.items()
        }


class GapWatch(Watch):
    """What a softly trained network loses on the test samples when it takes hard paths."""

    def result(self) -> dict[str, Any]:
        """Return both accuracies and the entropy of the decisions."""
        gap = nn.soft_hard_gap(self.model, self.data.x_test, self.data.y_test)
        return gap._asdict()


#: Watches by name.
WATCHES = {"": Watch, "usage": UsageWatch, "levels": LevelWatch, "gap": GapWatch}
