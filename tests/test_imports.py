"""Imports point down only, and what must work without TensorFlow does."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# what each part of the package may import of the package
ALLOWED = {
    "accounting": {"accounting"},
    "compress": {"compress", "layers", "data"},
    "data": {"data", "stateless"},
    "export": {"accounting", "data", "layers"},
    "latency": {"quiet"},
    "layers": {"layers", "stateless"},
    "litert": {"litert", "accounting", "data", "export", "quiet"},
    "models": {"models", "layers"},
    "optimize": {"optimize", "accounting", "export"},
    "packed": {"packed", "accounting", "compress", "export", "models"},
    "quiet": set(),
    "render": {"render", "accounting"},
    "stateless": set(),
    "training": {"training", "data", "layers", "stateless"},
    "tools": {
        "tools",
        "accounting",
        "compress",
        "data",
        "export",
        "latency",
        "layers",
        "litert",
        "models",
        "optimize",
        "packed",
        "render",
        "training",
    },
    "standalone_inference": {"packed"},
    "winner": set(),
}

FILES = [*ROOT.glob("frenzy/**/*.py"), *ROOT.glob("tools/**/*.py"), ROOT / "standalone_inference.py", ROOT / "winner.py"]


def part(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "frenzy" else parts[0]


def imported(path):
    """Full names that a file imports, wherever in it; a relative or star import fails."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.names[0].name != "*", f"{path}: star import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path):
    if part(path) == "__init__":
        return
    for name in imported(path):
        head, *rest = name.split(".")
        if head == "frenzy" and rest:
            assert rest[0] in ALLOWED[part(path)], f"{path.name} imports {name}"
        elif head in ("tools", "tests"):
            assert head in ALLOWED[part(path)], f"{path.name} imports {name}"


@pytest.mark.parametrize(
    "modules",
    [
        "frenzy.accounting, frenzy.accounting.account, frenzy.accounting.conventions",
        "frenzy.render.table, frenzy.render.data",
        "frenzy.render.groups, frenzy.render.changes, frenzy.render.model_explorer",
        "frenzy.data, frenzy.data.policies",
        "winner",
    ],
)
def test_no_tensorflow(modules):
    code = f"import sys; import {modules}; sys.exit('tensorflow' in sys.modules or 'tf_keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
