"""The log and the books of a real daemon are played against its own tree: every call ends as it did, to the cent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
from builders import KEY
from daemon import key_text, running, write_tree

LIMITS = '[limits]\nrate = { requests = 3, window = "1h" }\ndaily_cost = "5"\n'


def replayed(tree: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "relayd", "test", "--config", str(tree), "--json", *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_what_a_daemon_wrote_comes_out_the_same_when_played(tmp_path: Path) -> None:
    relay = '[models]\nfast = "claude-haiku-4-5"\n'
    tree = write_tree(tmp_path, relay=relay, keys={"dev": key_text(more=LIMITS)})
    with running(tree) as daemon:
        for model, stream in (
            ("fast", False),
            ("claude-sonnet-4-5", True),
            ("claude-haiku-4-5", False),
            ("fast", False),
        ):
            body = {"model": model, "max_tokens": 50, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
            httpx2.post(f"{daemon.url}/v1/messages", headers={"x-api-key": KEY}, json=body, timeout=30)
            httpx2.post(f"{daemon.url}/v1/messages/count_tokens", headers={"x-api-key": KEY}, json=body, timeout=30)
        daemon.wait_for("call.done", 8)
    log = str(daemon.output)

    same = replayed(tree, "--replay", log)
    assert (same["calls"], same["judged"]) == (8, 8)
    assert [same[name] for name in ("refused", "served", "moved", "repriced")] == [0, 0, 0, 0]
    (tree / "keys.d/dev.toml").write_text(key_text(more=LIMITS.replace("3", "2")))
    assert replayed(tree, "--replay", log)["refused"] == 1  # the third call, as a daemon would
    (tree / "keys.d/dev.toml").write_text(key_text(more=LIMITS.replace("3", "4")))
    assert replayed(tree, "--replay", log)["served"] == 1  # the fourth one

    books = replayed(tree, "--days", "2")
    assert books["calls"] == 3
    assert [books[name] for name in ("refused", "moved", "repriced")] == [0, 0, 0]
