"""aider against a running relay, streamed and whole: `python tests/bench/aider_session.py`.

Not part of the test suite: aider 0.86.2 brings 107 packages (690 MB; two minutes from a near package index) and wants
Python below 3.13. The suite proves what aider relies on with the same SDK and with the recorded request body
tests/corpus/openai/requests/aider.json; this is the program itself.

aider always sends `temperature: 0` and no `max_tokens`, and asks for no usage in its streams.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from openai_daemon import MODEL, Lane, Relay, relaying
from openai_programs import environment, run

QUIET = "--no-git --yes-always --no-check-update --no-analytics --no-show-model-warnings --no-pretty --map-tokens 0"


def main() -> None:
    python = environment("aider")
    with tempfile.TemporaryDirectory() as root, relaying(Path(root), {"plain": Lane()}) as relay:
        for more in ([], ["--no-stream"]):
            began = time.monotonic()
            answer = _ask(python, relay, Path(root), more)
            assert "You said: hello relay" in answer, answer
            line = relay.daemon.wait_for("call.done")[-1]
            assert (line["status"], line["outcome"]) == (200, "ok"), line
            print(f"{' '.join(more) or 'streamed'}: {time.monotonic() - began:.1f} s, {line['tokens_in']} tokens in")


def _ask(python: Path, relay: Relay, root: Path, more: list[str]) -> str:
    home = root / "home"
    prices = home / ".aider" / "caches" / "model_prices_and_context_window.json"
    prices.parent.mkdir(parents=True, exist_ok=True)
    prices.write_text("{}")  # else it asks the network for a price table
    env = {"OPENAI_API_BASE": relay.base_url, "OPENAI_API_KEY": relay.key("plain"), "HOME": str(home)}
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    command = [str(python), "-m", "aider", "--model", f"openai/{MODEL}", "--message", "hello relay", *QUIET.split()]
    return run([*command, *more], env, cwd=home)


if __name__ == "__main__":
    main()
