"""The examples of the README and of docs/forms.md work when pasted."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(name):
    """Return the examples of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", blocks("README.md"), ids=["op", "trainer", "gpu"])
def test_example_runs(block, capsys):
    if "import torch" in block and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("no GPU")
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_examples_of_the_forms_run_one_after_the_other(capsys):
    pytest.importorskip("matplotlib", reason="a picture is drawn")
    names = {}
    for block in blocks("docs/forms.md"):
        exec(compile(block, "forms.md", "exec"), names)
    assert "mean entropy" in capsys.readouterr().out
