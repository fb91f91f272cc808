"""Fuzzing by coverage: drives the targets with atheris for a while, each in a process of its own.

`python tests/fuzz/fuzz.py [SECONDS] [TARGET ...]` (default: 60 s of every target). Needs `pip install atheris`, beside
relayd and what its tests need. An input that breaks a target is told, and kept as tests/fuzz/found/TARGET-...: mend
the cause and leave the file, which test_fuzz_targets.py feeds to its target from then on. What the fuzzer has learned
is lost with the run, for a minute finds it again.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

FOUND = Path(__file__).with_name("found")


def fuzz(name: str, seconds: int, corpus: str) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris  # here alone, for it is slow to load and instruments what is imported after it

    with atheris.instrument_imports(include=["relayd", "email"]):
        from fuzz_targets import TARGETS
    target, seeds = TARGETS[name]
    for number, seed in enumerate(seeds):
        (Path(corpus) / f"seed{number}").write_bytes(seed)
    bounds = (
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    )
    atheris.Setup([sys.argv[0], *bounds, f"-artifact_prefix={FOUND}/{name}-", corpus], target)
    atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own; whether it held."""
    with tempfile.TemporaryDirectory(prefix="relayd-fuzz-") as corpus:
        words = [sys.executable, __file__, "--child", name, str(seconds), corpus]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    told = done.stdout + done.stderr
    runs = [line.split(":")[-1].strip() for line in told.splitlines() if "number_of_executed_units" in line]
    print(
        f"{name:20} {'held' if done.returncode == 0 else 'BROKE'} after {runs[-1] if runs else '?'} inputs", flush=True
    )
    if done.returncode:
        print(told[-3000:], flush=True)
    return done.returncode == 0


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        fuzz(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    if importlib.util.find_spec("atheris") is None:
        sys.exit(f"atheris is not installed [{sys.executable} -m pip install atheris]")
    from fuzz_targets import TARGETS

    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    FOUND.mkdir(exist_ok=True)
    held = [run(name, seconds) for name in sys.argv[2:] or TARGETS]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
