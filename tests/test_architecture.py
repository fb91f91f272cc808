"""The rules of the house, checked on the syntax trees: who imports whom, where `async` lives, one door per package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "relayd"

ROOMS = {
    "wire": set(),
    "config": set(),
    "core": {"wire", "config"},
    "state": {"wire", "config", "core"},
    "simulator": {"wire", "config"},
    "daemon": {"wire", "config", "core", "state", "simulator"},
    "web": {"config", "core"},
    "cli": {"wire", "config", "core", "state", "simulator", "daemon"},
}

# Third-party packages, each with the modules that may import it. A name that ends with "/" is a whole room.
DOORS = {
    "trio": ("daemon/", "cli/"),
    "httptools": ("daemon/net/client",),
    "httpx2": ("daemon/", "cli/"),
    "python_socks": ("daemon/net/connect",),
    "redis": ("state/redis", "state/redis_address"),
    "watchfiles": ("daemon/reload/watch",),
    "re2": ("config/pattern",),
    "cattrs": ("config/model/structure",),
    "cryptography": ("config/secrets/seal",),
    "sqlite3": ("state/sqlite", "state/sqlite_file"),
    "ssl": ("daemon/", "cli/login"),
}

# Time and chance are arguments; only the composition root, the processes' edges and the commands may ask for them.
CLOCKS = {("time", "time"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today"), ("random", "random")}
CLOCK_DOORS = ("daemon/run", "cli/")
NO_SUCH_MODULE = {"utils", "util", "helpers", "helper", "services", "service", "models", "errors", "common", "misc"}


def broken_rules(module: str, source: str) -> Iterator[str]:
    """What a module's source breaks. `module` is its path below relayd/, without ".py", such as `core/pool`."""
    room = module.partition("/")[0]
    if module.rpartition("/")[2] in NO_SUCH_MODULE:
        yield f"{module}: a type lives in the module that makes it, not in {module.rpartition('/')[2]}"
    for node in ast.walk(ast.parse(source)):
        for name in _imported(node):
            yield from _import_rules(module, room, name)
        if isinstance(node, ast.AsyncFunctionDef) and room not in ("daemon", "web"):
            yield f"{module}:{node.lineno}: async def outside daemon and web"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used = (node.value.id, node.attr)
            if used in CLOCKS and not module.startswith(CLOCK_DOORS):
                yield f"{module}:{node.lineno}: {'.'.join(used)}: time and chance are arguments"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module]
    return []


def _import_rules(module: str, room: str, name: str) -> Iterator[str]:
    parts = name.split(".")
    other = parts[1] if parts[0] == "relayd" and len(parts) > 1 else ""
    if other in ROOMS and room in ROOMS and other != room and other not in ROOMS[room]:
        yield f"{module}: room {room} must not import room {other}"
    doors = DOORS.get(parts[0], (module,))
    if not any(module.startswith(door) if door.endswith("/") else module == door for door in doors):
        yield f"{module}: {parts[0]} is imported only by {', '.join(doors)}"


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def test_the_house_keeps_its_rules() -> None:
    broken = [
        rule
        for path in sources()
        for rule in broken_rules(path.relative_to(ROOT).with_suffix("").as_posix(), path.read_text())
    ]

    assert broken == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("wire/http", "from relayd.core import pool"),
        ("core/pool", "import relayd.daemon.proxy.call"),
        ("core/pool", "import trio"),
        ("config/compile", "async def load(): ..."),
        ("core/limits", "import time\nnow = time.time()"),
        ("daemon/net/server", "import redis"),
        ("core/utils", ""),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert list(broken_rules(module, source))


def test_every_module_says_what_it_is() -> None:
    silent = [str(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]

    assert silent == []
