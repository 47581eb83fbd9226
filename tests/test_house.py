"""The way down is the only way: which part of the package may import which."""

import ast
from pathlib import Path

import fffnb

PACKAGE = Path(fffnb.__file__).parent
BELOW = {
    "buffers": set(),
    "nodes": set(),
    "leaves": set(),
    "init": {"buffers", "nodes", "leaves"},
    "activations": set(),
    "files": set(),
    "data": set(),
    "reference": set(),
    "cpu": {"activations", "buffers"},
    "cuda": {"activations"},
    "ops": {"nodes", "leaves", "activations", "buffers", "cpu", "cuda"},
    "nn": {"nodes", "leaves", "init", "activations", "files", "ops"},
    "bridges": {"nodes", "leaves", "activations", "ops", "nn"},
    "cli": {"nodes", "activations", "files", "data", "nn", "cpu"},  # cpu: to show the threads
    "__init__": {"nodes", "leaves", "init", "ops"},
    "__main__": {"cli"},
}
FRAMEWORKS = {"torch", "jax", "cupy", "tensorflow", "dask", "transformers"}
BRIDGED = {
    "bert": {"torch", "transformers"},
    "dask": {"dask"},
    "jax": {"jax"},
    "torch": {"torch"},
    "ultrafastbert": {"torch"},
}


def imports(path):
    """Return the full names of the modules that a file imports."""
    here = ("fffnb", *path.relative_to(PACKAGE).with_suffix("").parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level])
            module = f"{base}.{node.module}" if node.module else base
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def bridge_of(path):
    """Return the name of the bridge that a file is, or belongs to; None elsewhere."""
    part, *names = path.relative_to(PACKAGE).with_suffix("").parts
    return names[0] if part == "bridges" else None


def test_every_file_imports_only_from_below():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = part_of(path)
        for name in imports(path):
            words = name.split(".")
            inside = words[0] == "fffnb" and len(words) > 1 and words[1] in BELOW
            if inside and words[1] not in BELOW[part] | {part}:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_every_part_is_known():
    assert {part_of(path) for path in PACKAGE.rglob("*.py")} == set(BELOW)


def test_a_framework_is_imported_by_its_bridge_alone():
    for path in PACKAGE.rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)} & FRAMEWORKS
        assert found <= BRIDGED.get(bridge_of(path), set()), path
