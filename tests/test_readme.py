"""The examples of the README work when pasted."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["op", "trainer", "gpu"])
def test_example_runs(block, capsys):
    if "import torch" in block and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("no GPU")
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out
