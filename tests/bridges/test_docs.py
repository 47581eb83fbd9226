"""The examples of docs/bridges.md work when pasted."""

import re
from pathlib import Path

import pytest

from fffnb import cuda

PAGE = Path(__file__).parents[2] / "docs" / "bridges.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
OPTIONAL = ("cupy", "dask", "jax", "safetensors", "sklearn", "torch", "transformers")


def test_there_are_examples_and_no_gaps():
    assert BLOCKS
    assert not re.findall(r"^[A-Z_]+$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example_runs(block, capsys):
    for name in OPTIONAL:
        if name in block:
            pytest.importorskip(name, reason=f"the example needs {name}")
    if "cupy" in block or "cuda" in block:
        try:
            cuda.support.require()
        except RuntimeError as error:
            pytest.skip(str(error))
    exec(compile(block, "bridges.md", "exec"), {})
    assert capsys.readouterr().out
