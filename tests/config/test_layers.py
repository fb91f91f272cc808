"""The layers of config: who may import whom, checked on the syntax trees; each layer imports those below it alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent / "relayd"

# From the bottom up: wings, and the modules that lie beside them. Parts of one layer do not know each other.
LAYERS = (
    ("alert_events", "atomic", "pattern"),
    ("snapshot",),
    ("secrets",),
    ("problems",),
    ("model",),
    ("rules", "source"),
    ("compile", "diff_text", "environment"),
    ("changes", "load"),
    ("diff",),
    ("edit", "guard"),
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}


def upward_imports(module: str, source: str) -> Iterator[str]:
    """What a module of config imports that is not below it. `module`: its path below relayd/config, without ".py"."""
    own = module.split("/")[0]
    for node in ast.walk(ast.parse(source)):
        name = node.module if isinstance(node, ast.ImportFrom) else None
        if name and name.startswith("relayd.config."):
            other = name.split(".")[2]
            if other != own and HEIGHT[other] >= HEIGHT[own]:
                yield f"{module}:{node.lineno}: {own} must not import {other}"


def modules() -> list[Path]:
    return sorted(path for path in (ROOT / "config").rglob("*.py") if path != ROOT / "config" / "__init__.py")


def test_each_layer_of_config_imports_only_those_below_it() -> None:
    found = [
        wrong
        for path in modules()
        for wrong in upward_imports(path.relative_to(ROOT / "config").with_suffix("").as_posix(), path.read_text())
    ]

    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model/values", "from relayd.config.rules.lint import file_lint"),
        ("source/tree", "def late():\n    from relayd.config.compile import compile_tree"),
        ("rules/lint", "from relayd.config.source.tree import read_tree"),
        ("secrets/seal", "from relayd.config.model.values import quote"),
    ],
)
def test_a_planted_upward_import_is_found(module: str, source: str) -> None:
    assert list(upward_imports(module, source))
