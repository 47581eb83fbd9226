"""``fffnb train``: an FFF network and a dense one of the same layer sizes, by the same trainer."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import data, nn
from ..activations import ACTIVATIONS
from ..nn.soft_layer import soft_layers
from . import report
from .options import add_data, at_least_0, at_least_1, chosen, not_negative, positive

#: Batch sizes at which the time per sample is measured.
BATCHES = (1, 256)


class Option(NamedTuple):
    """An option of some forms: its kind, its default, and what it is in words."""

    kind: Callable[[str], Any]
    default: Any
    words: str


#: The options of forms, by the names that layers have for them.
OPTIONS = {
    "depth": Option(at_least_1, 5, "levels of each tree"),
    "n_nodes": Option(at_least_1, 64, "nodes of each bag"),
    "n_keys": Option(at_least_1, 16, "product keys of each half of the input"),
    "k": Option(chosen, 8, "nodes that a sample chooses, or positive: in bags, all of such score"),
    "width": Option(at_least_1, 8, "hidden neurons of each leaf"),
    "hardening": Option(not_negative, 1.0, "weight of the hardening loss in soft training"),
}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train an FFF network and a dense one beside it, and compare them",
        description="Train an FFF network and a dense network of the same layer sizes, print a "
        "table of both, and write the models and their learning curves.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data(parser, "digits", "digits")
    add_network(parser.add_argument_group("network (FFF layers with ReLU between)"))
    training = parser.add_argument_group("training")
    training.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    training.add_argument("--lr", type=positive, default=4e-3, help="learning rate")
    training.add_argument("--momentum", type=not_negative, default=0.0, help="of sgd")
    training.add_argument("--weight-decay", type=not_negative, default=0.01)
    training.add_argument("--schedule", choices=("constant", "cosine", "step"), default="cosine")
    training.add_argument("--batch-size", type=at_least_1, default=32)
    training.add_argument("--epochs", type=at_least_1, default=40)
    training.add_argument("--seed", type=at_least_0, default=0)
    training.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to train: cuda is the GPU"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("fffnb-run"), metavar="DIR")
    output.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    output.add_argument("--json", action="store_true", help="print the results as JSON alone")
    output.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def add_network(group: Any) -> None:
    """Add what the FFF layers are; of an option without default it is known if it was given."""
    group.add_argument(
        "--hidden",
        type=at_least_1,
        nargs="+",
        default=[64],
        metavar="N",
        help="hidden sizes",
    )
    group.add_argument("--model", choices=nn.FORMS, default="tree", help="form of the FFF layers")
    group.add_argument("--trees", type=at_least_1, default=4, help="trees of each layer")
    for name, option in OPTIONS.items():
        forms = ", ".join(form for form in nn.FORMS if name in nn.FORMS[form].options)
        group.add_argument(
            flag(name),
            type=option.kind,
            dest=name,
            default=argparse.SUPPRESS,
            metavar="N",
            help=f"{option.words} ({forms}; default: {option.default})",
        )
    group.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        default=argparse.SUPPRESS,
        help="act on the score of a node (default: identity, in leaves relu)",
    )


def flag(name: str) -> str:
    """Return the option of the command line for one of a form."""
    return "--" + name.removeprefix("n_")


def form_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the FFF layers take, or say what their form does not."""
    given = vars(options)
    taken = nn.FORMS[options.model].options
    for name in OPTIONS:
        if name in given and name not in taken:
            raise ValueError(
                f"--model {options.model} takes {', '.join(map(flag, taken))}, not {flag(name)}"
            )
    values = {name: given.get(name, OPTIONS[name].default) for name in taken}
    return values | ({"activation": given["activation"]} if "activation" in given else {})


def run(options: argparse.Namespace) -> int:
    """Train both networks, print the table, write models and learning curves."""
    dataset = data.load(options.data, options.data_dir)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out must be a folder to write to, got {options.out}: {error}") from error
    say = (lambda *words: None) if options.json else print
    say(
        f"{dataset.name}: {len(dataset.x_train):,} training and {len(dataset.x_test):,} test "
        f"samples, {dataset.x_train.shape[1]} features, {dataset.n_classes} classes"
    )
    results, histories = {}, {}
    for name, model in networks(options, dataset).items():
        history = fit(options, dataset, name, model)
        if history.interrupted:
            print(
                f"fffnb: stopped in epoch {len(history.loss) + 1} of the {name} network; the same "
                f"command with --resume goes on from there",
                file=sys.stderr,
            )
            return 130
        nn.save_model(
            options.out / f"{name}.safetensors",
            model,
            extra_metadata={"data": dataset.name, "n_classes": dataset.n_classes},
        )
        histories[name] = history
        results[name] = measure(model, dataset, history)
    curve = options.out / "learning-curve.png"
    widths = "-".join(map(str, layer_sizes(options, dataset)))
    report.learning_curve(curve, f"{dataset.name}, {widths}", histories)
    if options.json:
        print(
            json.dumps(
                {"data": dataset.name, "seed": options.seed, "networks": results},
                indent=2,
            )
        )
    else:
        say(f"\n{comparison(results)}\n")
        say(f"models: {options.out / 'fff.safetensors'}, {options.out / 'dense.safetensors'}")
        say(f"learning curves: {curve}")
    return 0


def layer_sizes(options: argparse.Namespace, dataset: data.Dataset) -> list[int]:
    """Return the widths from the input to the output."""
    return [dataset.x_train.shape[1], *options.hidden, dataset.n_classes]


def networks(options: argparse.Namespace, dataset: data.Dataset) -> dict[str, nn.Sequential]:
    """Return both networks; the dense one has the same layer sizes."""
    sizes = layer_sizes(options, dataset)
    fff: list[nn.Layer] = []
    dense: list[nn.Layer] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        if i:
            fff.append(nn.ReLU())
            dense.append(nn.ReLU())
        fff.append(
            nn.make_layer(
                options.model,
                n_in,
                n_out,
                n_trees=options.trees,
                **form_options(options),
                rng=np.random.default_rng((options.seed, i)),
            )
        )
        dense.append(nn.Linear(n_in, n_out, rng=np.random.default_rng((options.seed, i))))
    return {"fff": nn.Sequential(*fff), "dense": nn.Sequential(*dense)}


def fit(
    options: argparse.Namespace, dataset: data.Dataset, name: str, model: nn.Sequential
) -> nn.History:
    """Train one network with the options; the accuracy after each epoch is that of the test set."""
    if options.optimizer == "sgd":
        optimizer: nn.Optimizer = nn.SGD(
            model.parameters,
            options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
    else:
        optimizer = nn.AdamW(model.parameters, options.lr, weight_decay=options.weight_decay)
    steps = options.epochs * math.ceil(len(dataset.x_train) / options.batch_size)
    schedule = {
        "constant": nn.constant(),
        "cosine": nn.cosine(steps),
        "step": nn.step(max(1, steps // 3), 0.3),
    }[options.schedule]
    checkpoint = options.out / f"{name}-checkpoint.safetensors"
    return nn.fit(
        model,
        dataset.x_train,
        dataset.y_train,
        optimizer=optimizer,
        epochs=options.epochs,
        batch_size=options.batch_size,
        schedule=schedule,
        validation=(dataset.x_test, dataset.y_test),
        seed=options.seed,
        progress=False if options.quiet or options.json else None,
        checkpoint=checkpoint,
        resume=options.resume and (name == "fff" or checkpoint.exists()),
        device=options.device,
        callback=annealing(model, options.epochs),
    )


def annealing(model: nn.Sequential, epochs: int) -> nn.Annealing | None:
    """Return what cools soft layers from temperature 1 to 0.1 along half a cosine."""
    soft = next(soft_layers(model), None)
    return None if soft is None else nn.Annealing(model, nn.cosine(epochs, 0.1))


def measure(model: nn.Sequential, dataset: data.Dataset, history: nn.History) -> dict[str, Any]:
    """Return what the table shows of one trained network."""
    return {
        "test_accuracy": nn.accuracy(model, dataset.x_test, dataset.y_test),
        "parameters": sum(array.size for array in model.parameters.values()),
        "neurons": model.neurons,
        "neurons_read": model.neurons_read,
        "train_seconds": sum(history.seconds),
        "seconds_per_sample": {
            str(batch): report.seconds_per_sample(model, dataset.x_test, batch) for batch in BATCHES
        },
    }


def comparison(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of all networks."""
    heading = [
        "network",
        "test accuracy",
        "parameters",
        "neurons read per sample",
        "training",
    ]
    rows = [heading + [f"time per sample, batch {batch}" for batch in BATCHES]]
    for name, result in results.items():
        rows.append(
            [
                name,
                f"{100 * result['test_accuracy']:.2f} %",
                f"{result['parameters']:,}",
                f"{result['neurons_read']:,} of {result['neurons']:,}",
                report.duration(result["train_seconds"]),
                *(report.duration(result["seconds_per_sample"][str(batch)]) for batch in BATCHES),
            ]
        )
    return report.table(rows)
