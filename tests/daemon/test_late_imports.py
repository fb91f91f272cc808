"""Late imports: what a start and a plain call leave out, and that it is there as soon as somebody asks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from builders import KEY
from daemon import start, write_tree

# What only some trees, nodes or calls need: packages, of Python itself too, and rooms and wings of ours.
SELDOM = (
    "anthropic", "anyascii", "anyio", "asyncio", "cryptography", "http.client", "httpx2", "importlib.metadata",
    "jinja2", "markupsafe", "multiprocessing", "openai", "pickle", "python_socks", "redis", "segno", "shtab",
    "tomlkit", "yaml", "zipfile",
    "relayd.config.edit", "relayd.daemon.admin.app", "relayd.daemon.admin.control_answers",
    "relayd.daemon.admin.documents", "relayd.daemon.admin.metrics", "relayd.daemon.admin.pages",
    "relayd.daemon.admin.status", "relayd.daemon.alerts.webhook", "relayd.daemon.source.keeper",
    "relayd.daemon.workers.forking", "relayd.daemon.workers.snapshot_copy", "relayd.state.redis",
    "relayd.wire.openai.chat", "relayd.wire.openai.request", "relayd.wire.openai.responses",
    "relayd.wire.openai.shapes",
)  # fmt: skip

# What commands that only read text can do without, and what `check` can besides.
HEAVY = ("trio", "httpx2", "sqlite3", "relayd.daemon.build")
CALLS = ("ssl", "relayd.core.balancing.pool", "relayd.core.replay.play")

# A daemon that writes the names of its modules into the file MODULES_OF_THE_DAEMON when it ends.
RECORDING = """
import atexit, json, os, sys
atexit.register(lambda: open(os.environ["MODULES_OF_THE_DAEMON"], "w").write(json.dumps(sorted(sys.modules))))
from relayd.entry import main
sys.exit(main())
"""


def seldom(loaded: list[str]) -> list[str]:
    """Those of `loaded` that are SELDOM, or below one of them."""
    return [name for name in loaded if any(name == rare or name.startswith(f"{rare}.") for rare in SELDOM)]


def modules_after(tmp_path: Path, *paths: str, relay: str = "") -> list[str]:
    """The modules of a daemon that has answered a call on each of these paths."""
    tree, record = write_tree(tmp_path, relay=relay), tmp_path / "modules"
    body = {"model": "claude-sonnet-5-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}
    daemon = start(tree, program=("-c", RECORDING), environment={"MODULES_OF_THE_DAEMON": str(record)})
    try:
        for path in paths:
            headers = {"x-api-key": KEY}
            answer = httpx2.post(daemon.url + path, json=body, headers=headers, trust_env=False, timeout=60)
            assert answer.status_code == 200, answer.text
    finally:
        daemon.stop()
    names: list[str] = json.loads(record.read_text())
    return names


def test_a_start_and_a_plain_call_load_nothing_that_is_seldom_needed(tmp_path: Path) -> None:
    loaded = modules_after(tmp_path, "/v1/messages", relay='[upstream]\nmodels_every = "0s"\n')
    assert "relayd.daemon.proxy.call" in loaded
    assert seldom(loaded) == []


def test_a_call_in_another_dialect_loads_its_translator_and_nothing_else(tmp_path: Path) -> None:
    loaded = modules_after(tmp_path, "/v1/chat/completions", relay='[upstream]\nmodels_every = "0s"\n')
    assert "relayd.wire.openai.chat" in seldom(loaded)
    assert [name for name in seldom(loaded) if not name.startswith("relayd.wire.openai.")] == []


@pytest.mark.parametrize(
    ("arguments", "spared"), [([], (*HEAVY, *CALLS)), (["check"], (*HEAVY, *CALLS)), (["completion", "bash"], HEAVY)]
)
def test_a_command_that_only_reads_text_loads_no_daemon(
    tmp_path: Path, arguments: list[str], spared: tuple[str, ...]
) -> None:
    script = "import sys; from relayd.cli import main; main(sys.argv[1:]); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RELAYD_CONFIG": str(write_tree(tmp_path))},
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert "relayd.cli" in loaded
    assert sorted({*loaded} & {*spared}) == []


def test_rare_is_what_is_below_a_rare_name_too() -> None:
    assert seldom(["redis", "redis.asyncio", "redistribute", "trio"]) == ["redis", "redis.asyncio"]
