"""The examples for PyTorch learn what they are meant to learn."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: fffnb[torch]")

EXAMPLES = Path(__file__).parents[2] / "examples"


def accuracies(capsys, monkeypatch, name, *arguments):
    """Run an example, and return the accuracies that it prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return [float(found) for found in re.findall(r"accuracy ([\d.]+)", capsys.readouterr().out)]


def test_lenet_learns_digits(capsys, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: fffnb[train]")
    found = accuracies(capsys, monkeypatch, "torch_lenet.py")
    assert len(found) == 5 and found[-1] > 0.9, found


def test_lenet_learns_cifar10(capsys, monkeypatch):
    folder = os.environ.get("FFFNB_DATA")
    if not folder or not list(Path(folder).rglob("data_batch_1.bin")):
        pytest.skip("FFFNB_DATA names no folder of data sets with CIFAR-10")
    arguments = "--data-dir", folder, "--epochs", "1"
    (accuracy,) = accuracies(capsys, monkeypatch, "torch_lenet.py", *arguments)
    assert accuracy > 0.3


def test_the_attention_block_reverses_sequences(capsys, monkeypatch):
    (accuracy,) = accuracies(capsys, monkeypatch, "torch_attention.py")
    assert accuracy > 0.9
