"""report, usage and explain read the state while a daemon writes it; ownership outlives the daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anthropic
import pytest
from builders import KEY, OTHER_KEY
from daemon import key_text, running, write_tree
from simulated_objects import serving_objects

MODEL = "claude-haiku-4-5"
MAY = 'endpoints = ["messages", "files", "skills"]\n'
KEYS = {
    "dev": key_text(KEY, f'owner = "crew"\n{MAY}[limits]\ntotal_cost = "5.00"\n'),
    "other": key_text(OTHER_KEY, MAY),
}


def accounts(root: Path, url: str) -> dict[str, str]:
    """Two accounts at one upstream that keeps files."""
    secret = root / "credential"
    secret.write_text("sk-ant-api03-of-no-use\n")
    text = f'kind = "api-key"\nbase_url = "{url}"\n[credential]\nfile = "{secret}"\n'
    return {"a": text, "b": text}


def verb(tree: Path, *words: str) -> Any:
    ran = subprocess.run(
        [sys.executable, "-m", "relayd", *words, "--config", str(tree), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_books_can_be_read_beside_a_running_daemon(tmp_path: Path) -> None:
    with serving_objects() as url:
        tree = write_tree(tmp_path, accounts=accounts(tmp_path, url), keys=KEYS)
        with running(tree) as daemon, anthropic.Anthropic(api_key=KEY, base_url=daemon.url, max_retries=0) as sdk:
            for _ in range(3):
                sdk.messages.create(model=MODEL, max_tokens=10, messages=[{"role": "user", "content": "Hello"}])
            made = sdk.files.upload(file=("a.txt", b"content"))
            skill = sdk.beta.skills.create(files=[("letters/SKILL.md", b"---\nname: letters\n---\n")])

            daemon.wait_until(lambda: verb(tree, "report", "--from", "yesterday")["requests"] == 5, "five bookings")
            report = verb(tree, "report", "--from", "yesterday", "--by", "model")
            (usage,) = verb(tree, "usage", "dev")["keys"]
            explained = verb(tree, "explain", "--key", "dev", "--model", MODEL)

            assert report["tokens"] > 0
            assert {row["model"] for row in report["rows"]} >= {""}  # making a file is a request without a model
            assert usage["limits"][0]["limit_name"] == "total cost $5.00"
            assert [row["serves"] for row in explained["accounts"]] == [True, True]

        with running(tree) as daemon:
            mine = anthropic.Anthropic(api_key=KEY, base_url=daemon.url, max_retries=0)
            other = anthropic.Anthropic(api_key=OTHER_KEY, base_url=daemon.url, max_retries=0)
            with mine, other:
                assert mine.files.retrieve_metadata(made.id) == made
                with pytest.raises(anthropic.NotFoundError, match="file not found"):
                    other.files.retrieve_metadata(made.id)
                assert [one.id for one in mine.beta.skills.list(source="custom")] == [skill.id]
                for sdk, found in ((mine, True), (other, False)):
                    with nullcontext() if found else pytest.raises(anthropic.NotFoundError, match="skill not found"):
                        sdk.beta.messages.create(
                            model=MODEL,
                            max_tokens=10,
                            messages=[{"role": "user", "content": "Hello"}],
                            container={"skills": [{"type": "custom", "skill_id": skill.id}]},
                        )
