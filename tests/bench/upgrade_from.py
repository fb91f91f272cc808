"""An upgrade from an older commit to this checkout under load, on one SQLite state, with the code of both.

    python tests/bench/upgrade_from.py COMMIT [--rounds 5]

Each round makes a state with the older code, lets clients call without cease, starts this checkout's daemon on the same
file, lets both serve for a while, and ends the older one. Prints the versions of the tables, and exits 1 where a call
failed or is not in the books. Needs the repository's history.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from cli_tree import Tree
from daemon import Daemon, start, write_tree
from old_code import ROOT, unpack
from steady_calls import Way, steady_calls

from relayd.state.sqlite_file import inspect_file

CALLS = 100


def upgraded(older: Path, place: Path) -> bool:
    """One upgrade. Whether nothing was lost."""
    file = place / "state" / "relayd.db"
    tree = write_tree(place)
    # -m looks into the working directory first, which PYTHONSAFEPATH forbids.
    codes = [{"PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"} for path in (older, ROOT)]

    def started(number: int) -> Daemon:
        words = ("--state", f"sqlite:{file}", "--node", f"n{number}", "--control", str(place / f"{number}.sock"))
        return start(tree, *words, output=place / f"{number}.log", environment=codes[number])

    before = started(0)
    version = inspect_file(str(file))[0]
    with steady_calls(Way(before.url), clients=4) as old_calls:
        old_calls.wait_for(CALLS)
        after = started(1)
        now = inspect_file(str(file))[0]
        with steady_calls(Way(after.url), clients=4) as new_calls:
            old_calls.wait_for(CALLS)  # of the older one, on tables that it does not know
            old_calls.stop()
            new_calls.wait_for(CALLS)
    before.stop()
    after.stop()
    served = len(old_calls.took), len(new_calls.took)
    failures = old_calls.failures + new_calls.failures
    booked = Tree(tree).run("report", "--json", "--state", f"sqlite:{file}").json["requests"]
    print(
        f"tables {version} -> {now}: {served[0]} and {served[1]} calls, {len(failures)} failed, {booked} in the books"
    )
    for failure in failures[:5]:
        print(failure)
    return not failures and booked == sum(served)


def main() -> int:
    parser = argparse.ArgumentParser(description="an upgrade under load, from an older commit")
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        older = Path(place) / "older"
        unpack(args.commit, older)
        os.environ.pop("RELAYD_STATE_URL", None)
        results = [upgraded(older, Path(place) / f"round{number}") for number in range(args.rounds)]
        return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
