"""Real programs against the demo tree, as docs/clients.md sets them up: one row each.

    python tests/live/programs              # all; installs what is missing: minutes and 3 GB the first time
    python tests/live/programs codex litellm

Ends with 1 if one failed. What an installation cannot have here (no network, no such platform) is told in its row.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS), str(TESTS / "live"), str(TESTS.parent)]

from client_page import PAGE, SAID, Recipe, installed, performed, recipes  # noqa: E402
from daemon import running  # noqa: E402
from demo_tree import DEMO_KEY, copied  # noqa: E402


def tried(recipe: Recipe, home: Path, url: str) -> tuple[str, str]:
    """("ok" or what went wrong, the program's time in seconds)."""
    try:
        program = installed(recipe.program)
    except Exception as error:  # whatever an installer may do wrong is this row's result
        return f"not installed: {_last_line(error)}", ""
    began = time.monotonic()
    try:
        said = performed(recipe, program, home, url, DEMO_KEY)
        result = "ok" if SAID.get(recipe.program, "You said:") in said else f"said {said[-200:]!r}"
    except Exception as error:  # likewise
        result = _last_line(error)
    return result, f"{time.monotonic() - began:.1f}"


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[-1][-200:]


def main(wanted: list[str]) -> int:
    failed = 0
    place = Path(tempfile.mkdtemp(prefix="relayd-programs-"))
    try:
        with running(copied(place)) as daemon:
            print(f"{'client':34} {'seconds':>7}  result", flush=True)
            for number, recipe in enumerate(recipes(PAGE.read_text())):
                if wanted and recipe.program not in wanted:
                    continue
                result, seconds = tried(recipe, place / f"home-{number}", daemon.url)
                failed += result != "ok"
                print(f"{recipe.title:34} {seconds:>7}  {result}", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
