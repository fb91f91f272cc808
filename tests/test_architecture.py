"""Architecture tests: the rules of the house, checked on the syntax trees of its modules.

Rule: every rule here is tried on a planted violation, so that a rule which finds nothing is known to look.

Theory: `broken_rules` says what one module breaks by itself; circles and names that occur twice are seen only from all
modules together. A module is named by its path below relayd/, without ".py", such as `core/balancing/pool`. A name that
ends with "/" is a whole room or wing.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "relayd"

# Each room with the rooms that it may import.
ROOMS = {
    "wire": set(),
    "config": set(),
    "core": {"wire", "config"},
    "state": {"wire", "config", "core"},
    "simulator": {"wire", "config"},
    "daemon": {"wire", "config", "core", "state", "simulator"},
    "cli": {"wire", "config", "core", "state", "simulator", "daemon"},
}

# The wings of the daemon, each with those that it may import: only what lies below it.
WINGS = {
    "net": set(),
    "accounts": {"net"},
    "store": {"net"},
    "proxy": {"net", "accounts", "store"},
    "source": set(),
    "telemetry": set(),
    "reload": {"net", "accounts", "store", "proxy", "source"},
    "workers": {"net", "reload"},
    "alerts": {"net", "accounts", "store"},
    "admin": {"net", "accounts", "store", "proxy", "reload", "source", "telemetry", "alerts", "workers"},
}
# These lie beside the wings, and every wing may use them; they themselves use no wing.
BESIDE = {"beside", "events", "access_log", "log", "log_output", "log_repetition", "log_setup", "paths", "systemd"}
# Every other module at the top of daemon (build, run, node) makes things of all wings; no wing imports it.

# Packages, each with the modules that may import it. Each third-party package has a door, and two of the library's.
DOORS = {
    "anyascii": ("cli/tree",),
    "apprise": ("daemon/alerts/apprise_child",),
    "attrs": ("",),  # the nouns are everywhere
    "backports": ("wire/content_coding",),
    "brotli": ("wire/content_coding",),
    "compression": ("wire/content_coding",),  # of the library from 3.14 on
    "cattrs": ("config/model/structure",),
    "cryptography": ("config/secrets/seal", "config/secrets/locked_text", "config/secrets/sealed_stream"),
    "httptools": ("daemon/net/response_stream",),
    "httpx2": ("daemon/net/httpx2_transport", "daemon/alerts/webhook"),
    "jinja2": ("daemon/admin/pages/render",),
    "opentelemetry": ("daemon/telemetry/spans",),
    "outcome": ("daemon/net/polled_stream",),
    "msgspec": ("wire/", "config/diff", "core/", "simulator/", "state/", "daemon/", "cli/"),
    "python_socks": ("daemon/net/connect",),
    "re2": ("config/pattern",),
    "redis": ("state/redis", "state/redis_address"),
    "segno": ("core/access/enrolment",),
    "shtab": ("cli/completion",),
    "sqlite3": ("state/sqlite", "state/sqlite_file", "state/sqlite_gathered", "state/sqlite_copy"),
    "ssl": ("daemon/net/", "daemon/accounts/", "daemon/alerts/"),
    "tomlkit": ("config/edit/toml_edit",),
    "trio": ("daemon/", "cli/"),
    "yaml": ("cli/litellm",),
}

# Time and chance are arguments. Only the composition root and the commands may ask for them; trio.current_time is the
# loop's own, which a test may set.
CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime", "gmtime"},
    "datetime": {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"},
    "random": {"random", "Random", "SystemRandom", "choice", "choices", "randint", "randrange", "shuffle", "uniform"},
    "secrets": {"token_bytes", "token_hex", "token_urlsafe", "choice", "randbelow", "SystemRandom"},
    "os": {"urandom", "getrandom"},
    "uuid": {"uuid1", "uuid4"},
}
CLOCK_DOORS = ("daemon/build", "daemon/run", "daemon/worker", "cli/")
# No decision hangs on these: what is asked for, and why it may be.
CLOCKS_ALLOWED = {
    ("config/atomic", "secrets.token_hex"): "a name for a temporary file that nobody else has",
    ("config/secrets/seal", "os.urandom"): "the default of an argument; keys are made of nothing else",
    ("config/secrets/secret", "os.urandom"): "the key of a hash that is told to nobody, one per process",
    ("daemon/store/batcher", "time.monotonic"): "the store's thread, which sees no loop and no loop's clock",
    ("daemon/store/batcher", "time.perf_counter"): "how long the store took, for the metrics",
    ("daemon/store/store_session", "time.monotonic"): "the store's thread, which sees no loop and no loop's clock",
    ("daemon/store/store_session", "time.perf_counter"): "how long the store took, for the metrics",
    ("state/sqlite_file", "time.monotonic"): "how long to wait for a file that another process holds",
}

# Ways around what mypy sees of nouns (see relayd/noun.py), and who may go them.
SETTERS = {"object.__setattr__", "setattr", "attrs.frozen", "attrs.setters.frozen"}
SETTERS_ALLOWED = {
    ("config/secrets/secret", "object.__setattr__"): "its own __setattr__ refuses, for a secret is frozen in earnest",
    ("core/quota/usage_record", "setattr"): "while a record is made: its counts are bounded all together",
    ("wire/answer", "setattr"): "a field of a Delta, which is built up",
    ("wire/openai/request", "setattr"): "a field of the draft of a request, which is built up",
}

NO_SUCH_MODULE = {"utils", "util", "helpers", "helper", "services", "service", "models", "errors", "common", "misc"}

# Names of types that may occur more than once, each with the reason.
NAMES_TWICE: dict[str, str] = {}


def broken_rules(module: str, source: str) -> Iterator[str]:
    """What a module breaks by itself."""
    room = module.partition("/")[0]
    if module.rpartition("/")[2] in NO_SUCH_MODULE:
        yield f"{module}: a type lives in the module that makes it, not in {module.rpartition('/')[2]}"
    tree = ast.parse(source)
    for name in sorted(imported(tree)):
        yield from _import_rules(module, room, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{module}:{node.lineno}: imports are absolute"
        if isinstance(node, ast.AsyncFunctionDef) and room != "daemon":
            yield f"{module}:{node.lineno}: async def outside daemon"
    if not module.startswith(CLOCK_DOORS):
        yield from _clock_rules(module, tree)
    yield from _noun_rules(module, tree)


def imported(tree: ast.Module) -> set[str]:
    """The modules that are imported, with every name that is taken from one, which may be a module too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _dotted(node.func).endswith("import_module"):
            names.update(name.value for name in node.args[:1] if isinstance(name, ast.Constant))
    return names


def _import_rules(module: str, room: str, name: str) -> Iterator[str]:
    package, *parts = name.split(".")
    if package == "relayd":
        other = parts[0]
        if other in ROOMS and room in ROOMS and other != room and other not in ROOMS[room]:
            yield f"{module}: room {room} must not import room {other}"
        if room == other == "daemon" and len(parts) > 1:
            yield from _wing_rules(module, parts[1])
    elif package in DOORS or package not in sys.stdlib_module_names:
        doors = DOORS.get(package, ())
        if not any(module.startswith(door) if door.endswith("/") else door in ("", module) for door in doors):
            yield f"{module}: {package} is imported only by {', '.join(doors) or 'a module that DOORS names'}"


def _wing_rules(module: str, other: str) -> Iterator[str]:
    """`other` is a wing of the daemon, or a module at its top."""
    wing = module.split("/")[1]
    if wing in WINGS and other != wing and other not in WINGS[wing] | BESIDE:
        yield f"{module}: wing {wing} must not import daemon/{other}"
    if wing in BESIDE and other not in BESIDE:
        yield f"{module}: {wing} lies beside the wings and must not import daemon/{other}"


def _clock_rules(module: str, tree: ast.Module) -> Iterator[str]:
    known, types = _local_names(tree), {id(part) for part in _annotations(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in types:
            head, _, rest = _dotted(node).partition(".")
            package, _, used = f"{known.get(head, '')}.{rest}".strip(".").partition(".")
            asked = f"{package}.{used}"
            if used in CLOCKS.get(package, ()) and (module, asked) not in CLOCKS_ALLOWED:
                yield f"{module}:{node.lineno}: {asked}: time and chance are arguments"


def _noun_rules(module: str, tree: ast.Module) -> Iterator[str]:
    """Who freezes a class in another way than the house, or sets a field where mypy does not see it."""
    known = _local_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            head, dot, rest = _dotted(node).partition(".")
            if (used := known.get(head, head) + dot + rest) in SETTERS and (module, used) not in SETTERS_ALLOWED:
                yield f"{module}:{node.lineno}: {used}: what does not change is a noun (relayd/noun.py), and stays"


def _local_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: `from time import time as now` makes now: time.time."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
    return names


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "()"


def _annotations(tree: ast.Module) -> Iterator[ast.AST]:
    """What stands in annotations: `rng: random.Random` asks for nothing."""
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if written := getattr(node, field, None):
                yield from ast.walk(written)


def circle(modules: Mapping[str, str]) -> list[str]:
    """The modules of one circle of imports, [] where there is none. `modules` are names with their sources."""
    imports: dict[str, set[str]] = {}
    for module, source in modules.items():
        names = {name.removeprefix("relayd.").replace(".", "/") for name in imported(ast.parse(source))}
        imports[module] = {known for name in names for known in (name, name.rpartition("/")[0]) if known in modules}
        imports[module].discard(module)
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def named_twice(modules: Mapping[str, str]) -> list[str]:
    """Names that stand for more than one type, each with the places."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for module, source in modules.items():
        for name, line in _types(ast.parse(source)):
            places[name].append(f"{module}:{line}")
    return [f"{name}: {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]


def _types(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Classes, wherever they stand, and the capitalised aliases of a module, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, node.lineno
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        targets.append(getattr(node, "name", None) if type(node).__name__ == "TypeAlias" else None)
        for target in targets:
            if isinstance(target, ast.Name) and target.id[0].isupper() and not target.id.isupper():
                yield target.id, node.lineno


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def modules() -> dict[str, str]:
    """Every module of relayd with its source."""
    return {path.relative_to(ROOT).with_suffix("").as_posix(): path.read_text() for path in sources()}


def test_the_house_keeps_its_rules() -> None:
    broken = [rule for module, source in modules().items() for rule in broken_rules(module, source)]

    assert broken == [], "\n".join(broken)


def test_no_circle_of_imports() -> None:
    assert circle(modules()) == []


def test_a_name_stands_for_one_type() -> None:
    twice = [found for found in named_twice(modules()) if found.partition(":")[0] not in NAMES_TWICE]

    assert twice == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("wire/http", "from relayd.core import pool"),
        ("wire/http", "from relayd import core"),
        ("core/pool", "import relayd.daemon.proxy.call"),
        ("core/pool", "import trio"),
        ("core/pool", "import requests"),
        ("core/pool", "import importlib\nimportlib.import_module('redis')"),
        ("core/pool", "from . import breaker"),
        ("config/compile", "async def load(): ..."),
        ("cli/test", "async def load(): ..."),
        ("core/limits", "import time\nnow = time.time()"),
        ("core/limits", "import time as t\nnow = t.monotonic()"),
        ("core/limits", "from time import time_ns as now\nnow()"),
        ("core/limits", "import datetime\ndatetime.datetime.now()"),
        ("core/limits", "from datetime import date\ndate.today()"),
        ("core/pool", "import random\nrng = random.Random()"),
        ("core/pool", "import random\ndef pick(rng: random.Random = random.Random()): ..."),
        ("daemon/proxy/call", "import secrets\nsecrets.token_hex(8)"),
        ("daemon/node", "import os\nos.urandom(8)"),
        ("daemon/net/server", "import redis"),
        ("core/utils", ""),
        ("core/pool", "import attrs\n@attrs.frozen(kw_only=True)\nclass Picked: ..."),
        ("core/pool", "from attrs import frozen as noun\n@noun\nclass Picked: ..."),
        ("core/pool", "def spoil(picked): object.__setattr__(picked, 'reason', '')"),
        ("core/pool", "def spoil(picked, name): setattr(picked, name, '')"),
        ("daemon/net/server", "from relayd.daemon.accounts import oauth"),
        ("daemon/net/server", "from relayd.daemon import store"),
        ("daemon/accounts/oauth", "import relayd.daemon.store.batcher"),
        ("daemon/store/batcher", "from relayd.daemon.accounts.credentials import Credentials"),
        ("daemon/proxy/call", "from relayd.daemon.reload.requests import ReloadRequest"),
        ("daemon/reload/boot", "def late():\n    from relayd.daemon.admin.status import status_document"),
        ("daemon/admin/app", "from relayd.daemon.run import serve"),
        ("daemon/admin/app", "from relayd.daemon.build import build"),
        ("daemon/paths", "from relayd.daemon.store.state_client import state_directory"),
        ("daemon/log", "from relayd.daemon import node"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert list(broken_rules(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("daemon/admin/app", "from relayd.daemon.log_output import Output\nfrom relayd.daemon import paths"),
        ("daemon/proxy/call", "from relayd.daemon.store.leases import Leases"),
        ("daemon/build", "from relayd.daemon.admin.app import AdminApp\nimport time\nclock = time.time"),
        ("cli/serve", "import trio\nfrom relayd.daemon.run import serve"),
        ("core/pool", "import random\ndef pick(rng: random.Random) -> float:\n    return rng.random()"),
        ("core/limits", "import datetime\nday = datetime.datetime.fromtimestamp(0, datetime.UTC)"),
    ],
)
def test_what_the_rules_allow_is_not_found(module: str, source: str) -> None:
    assert list(broken_rules(module, source)) == []


def test_a_planted_circle_is_found() -> None:
    planted = {
        "core/pool": "from relayd.core import breaker",
        "core/breaker": "def late():\n    from relayd.core.strategy import race",
        "core/strategy": "import relayd.core.pool",
        "core/live": "from relayd.core.pool import Pool",
    }

    assert set(circle(planted)) == {"core/pool", "core/breaker", "core/strategy"}
    assert circle(planted | {"core/breaker": ""}) == []


@pytest.mark.parametrize(
    "second",
    ["class Record: ...", "def f():\n    class Record: ...", "Record = tuple[int, int]", "Record: object = int"],
)
def test_a_planted_name_that_occurs_twice_is_found(second: str) -> None:
    planted = {"core/a": "class Record: ...\nLIMIT = 1\nlog = print", "core/b": f"{second}\nLIMIT = 2\nlog = print"}

    assert [found.partition(":")[0] for found in named_twice(planted)] == ["Record"]


def test_each_exception_is_needed() -> None:
    house = modules()
    unused = [
        f"{module}: {asked}"
        for module, asked in CLOCKS_ALLOWED
        if module in house and asked.partition(".")[2] not in house[module]
    ]
    unused += [f"{module}: {used}" for module, used in SETTERS_ALLOWED if used not in house[module]]
    twice = {found.partition(":")[0] for found in named_twice(house)}

    assert unused == []
    assert set(NAMES_TWICE) <= twice


def test_every_module_says_what_it_is() -> None:
    silent = [str(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]

    assert silent == []


def test_every_question_of_a_test_says_how_long_it_waits() -> None:
    """The 5 s that httpx2 waits unless told otherwise are too short on a machine that is busy with other tests."""
    asking = {"get", "post", "put", "delete", "head", "options", "patch", "request", "stream", "Client", "AsyncClient"}
    silent = [
        f"{path.relative_to(ROOT.parent)}:{node.lineno}"
        for path in sorted(Path(__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _dotted(node.func) in {f"httpx2.{verb}" for verb in asking}
        if "timeout" not in {keyword.arg for keyword in node.keywords}
    ]
    assert silent == []
