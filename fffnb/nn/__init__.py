"""A small trainer: layers, losses, optimisers, and `fit`, on the CPU or a GPU."""

from .bag import BagFFF, ProductKeyFFF
from .evaluate import accuracy, predict
from .fit import fit
from .flat import FlatFFF
from .form_layer import TreeLayer
from .forms import FORMS, make_layer
from .layer import Layer
from .layers import FFF, GELU, Linear, ReLU, Sequential
from .leaf import LeafFFF
from .losses import mean_squared_error, softmax_cross_entropy
from .optim import SGD, AdamW
from .optimizer import Optimizer
from .record import LevelRecord, LevelScores
from .run import History
from .saving import layer_from_config, load_metadata, load_model, save_model
from .schedules import constant, cosine, step
from .soft import Annealing, SoftFFF, SoftHardGap, soft_hard_gap
from .sum import Mix, Sum
from .usage import plot_usage, usage

__all__ = [
    "FFF",
    "FORMS",
    "GELU",
    "SGD",
    "AdamW",
    "Annealing",
    "BagFFF",
    "FlatFFF",
    "History",
    "Layer",
    "LeafFFF",
    "LevelRecord",
    "LevelScores",
    "Linear",
    "Mix",
    "Optimizer",
    "ProductKeyFFF",
    "ReLU",
    "Sequential",
    "SoftFFF",
    "SoftHardGap",
    "Sum",
    "TreeLayer",
    "accuracy",
    "constant",
    "cosine",
    "fit",
    "layer_from_config",
    "load_metadata",
    "load_model",
    "make_layer",
    "mean_squared_error",
    "plot_usage",
    "predict",
    "save_model",
    "soft_hard_gap",
    "softmax_cross_entropy",
    "step",
    "usage",
]
