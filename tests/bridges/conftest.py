"""What the tests of all bridges share."""

import doctest
import importlib

import pytest


@pytest.fixture
def run_examples():
    """Give a function that runs the examples in the docstrings of a bridge."""

    def run(name):
        result = doctest.testmod(importlib.import_module(f"fffnb.bridges{name}"))
        assert result.attempted and not result.failed, result

    return run
