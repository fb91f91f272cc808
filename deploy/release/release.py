#!/usr/bin/env python3
"""Release: builds what is published of a commit, and proves it. Needs Python 3.11, git and a package index.

    python3 deploy/release/release.py                      # everything, for every supported Python
    python3 deploy/release/release.py --python 3.11        # tried with this one only; may be repeated
    python3 deploy/release/release.py --without audit      # asks no vulnerability service; may be repeated

What lies in dist/ afterwards, with SHA256SUMS: sdist, wheel, requirements.lock, SBOM (CycloneDX), one pex file for each
Python.

Rule: a commit is built, never a work tree. Every tool and dependency is installed by hash. A step that fails ends it;
nothing that was left out is passed over in silence.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK, TOOLS = Path("deploy/requirements.lock"), Path("deploy/release/requirements.lock")
SMOKE = Path("deploy/release/smoke.py")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
STEPS = ("audit", "pex")  # that can be left out


class ReleaseError(Exception):
    """Why there is no release."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Build what is published of the commit that is checked out.")
    parser.add_argument(
        "--python", action="append", help=f"a Python to try it with, by version or path (default: {', '.join(PYTHONS)})"
    )
    parser.add_argument("--without", action="append", choices=STEPS, default=[], help="a step to leave out")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where it goes (default: dist)")
    parser.add_argument(
        "--draft", action="store_true", help="the changelog need not have a section of this version yet"
    )
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="relayd-release-") as folder:
            release(options, Path(folder))
    except (ReleaseError, subprocess.CalledProcessError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


def release(options: argparse.Namespace, work: Path) -> None:
    """All steps, in order."""
    if options.out.exists() and options.out.resolve() != ROOT / "dist":
        raise ReleaseError(f"{options.out} exists; only dist is written over")
    commit, when = said("git", "rev-parse", "HEAD"), said("git", "show", "-s", "--format=%ct", "HEAD")
    one, other = checkout(work / "one", commit), checkout(work / "other-place", commit)
    version = version_of(one)
    check_changelog(one, version, draft=options.draft)
    tools = make_tools(work, one)
    built = build(tools, one, work / "built", when, 0o022)
    same(built, build(tools, other, work / "built-again", when, 0o077))
    wheel, sdist = built["whl"], built["gz"]
    check_contents(wheel, sdist, commit)
    out = work / "out"
    out.mkdir()
    bill_of_materials(tools, one, out / f"relayd-{version}.cdx.json", version, when)
    if "audit" not in options.without:
        audit(tools, one)
    for number, python in enumerate(options.python or PYTHONS):
        venv = install(tools, python, one, wheel, work / f"venv-{number}")
        no_startup_files(venv)
        python = said(str(venv / "bin/python"), "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        smoke(one, [str(venv / "bin/relayd")], venv / "bin/python", version, commit)
        if "pex" not in options.without:
            single = make_pex(tools, venv, one, wheel, out / f"relayd-{version}-py{python}.pex", when)
            smoke(one, [str(venv / "bin/python"), str(single)], venv / "bin/python", version, commit)
    for path in (wheel, sdist, one / LOCK):
        shutil.copy(path, out)
    sums = [f"{digest(path)}  {path.name}\n" for path in sorted(out.iterdir())]
    (out / "SHA256SUMS").write_text("".join(sums))
    shutil.rmtree(options.out, ignore_errors=True)
    shutil.copytree(out, options.out)
    step(
        f"relayd {version} of {commit[:12]} is in {options.out}"
        + "".join(f"\n  without {one}" for one in options.without)
    )


# --- what is built


def checkout(place: Path, commit: str) -> Path:
    """The commit in a directory of its own: nothing of the work tree gets in."""
    run("git", "clone", "--quiet", "--no-checkout", str(ROOT), str(place))
    run("git", "-C", str(place), "checkout", "--quiet", "--detach", commit)
    return place


def version_of(tree: Path) -> str:
    found = re.search(r'^__version__ = "([^"]+)"$', (tree / "relayd/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise ReleaseError("relayd/__init__.py has no __version__")
    return found[1]


def check_changelog(tree: Path, version: str, *, draft: bool) -> None:
    """The newest section is that of the version, with a date."""
    sections = re.findall(r"^## (.+)$", (tree / "CHANGELOG.md").read_text(), re.MULTILINE)
    newest = sections[0] if sections else ""
    if not draft and not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", newest):
        raise ReleaseError(f"CHANGELOG.md: the newest section is {newest!r}, not '{version} (YYYY-MM-DD)'; see --draft")


def make_tools(work: Path, tree: Path) -> Path:
    """The release's own tools, by hash. Gives the directory of their commands."""
    step("tools")
    venv = work / "tools"
    run(sys.executable, "-m", "venv", str(venv))
    pip = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--require-hashes", "--no-deps", "-r", str(tree / TOOLS))
    return venv / "bin"


def build(tools: Path, tree: Path, out: Path, when: str, umask: int) -> dict[str, Path]:
    """Sdist, and the wheel made from it, by the ending of their names."""
    step(f"build in {tree.name}")
    command = [str(tools / "python"), "-m", "build", "--quiet", "--no-isolation", "--outdir", str(out), str(tree)]
    run(*command, more={"SOURCE_DATE_EPOCH": when}, umask=umask)
    return {path.suffix[1:]: path for path in out.iterdir()}


def same(built: Mapping[str, Path], again: Mapping[str, Path]) -> None:
    """Two builds of one commit, elsewhere and under another umask, are the same bytes."""
    for kind, path in built.items():
        if digest(path) != digest(again[kind]):
            raise ReleaseError(f"{path.name} is not reproducible: {digest(path)} and {digest(again[kind])}")
        step(f"{path.name} is reproducible: sha256 {digest(path)}")


def check_contents(wheel: Path, sdist: Path, commit: str) -> None:
    """Nothing in them runs when an interpreter starts, or lies outside the package; both know their commit."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        baked = archive.read("relayd/commit.txt").decode().strip()
    strays = [name for name in names if not re.match(r"relayd/|relayd-[^/]+\.dist-info/", name)]
    with tarfile.open(sdist) as tar:
        names += tar.getnames()
    strays += [name for name in names if name.endswith((".pth", ".pyc", ".so", "sitecustomize.py", "usercustomize.py"))]
    if strays:
        raise ReleaseError(f"what does not belong into a package: {strays}")
    if baked != commit:
        raise ReleaseError(f"{wheel.name} says that it is of commit {baked!r}, not {commit}")


def make_pex(tools: Path, venv: Path, tree: Path, wheel: Path, path: Path, when: str) -> Path:
    """One file with relayd and all that it needs but Python, by the same hashes, for this kind of machine."""
    step(path.name)
    wanted = wheel.with_name("pex.lock")
    wanted.write_text(f"{(tree / LOCK).read_text()}relayd=={version_of(tree)} --hash=sha256:{digest(wheel)}\n")
    what = ["--requirement", str(wanted), "--no-transitive", "--find-links", str(wheel.parent)]
    what += ["--resolver-version", "pip-2020-resolver"]  # the older one fails over hashes from Python 3.12 on
    form = ["--python", str(venv / "bin/python"), "--console-script", "relayd", "--output-file", str(path)]
    run(str(tools / "pex"), *what, *form, more={"SOURCE_DATE_EPOCH": when})
    return path


# --- what it is made of


def bill_of_materials(tools: Path, tree: Path, path: Path, version: str, when: str) -> None:
    """The SBOM of everything that is locked, with its hashes: all of it is what relayd depends on."""
    step(path.name)
    asked = ["requirements", str(tree / LOCK), "--pyproject", str(tree / "pyproject.toml")]
    form = ["--output-reproducible", "--output-format", "JSON", "--output-file", str(path)]
    run(str(tools / "cyclonedx-py"), *asked, *form, more={"SOURCE_DATE_EPOCH": when, "PYTHONWARNINGS": "ignore"})
    bill = json.loads(path.read_text())
    root = bill["metadata"]["component"]
    root.update(version=version, purl=f"pkg:pypi/relayd@{version}")
    parts = sorted(one["bom-ref"] for one in bill["components"])
    others = [one for one in bill["dependencies"] if one["ref"] != root["bom-ref"]]
    bill["dependencies"] = [*others, {"ref": root["bom-ref"], "dependsOn": parts}]
    path.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n")


def audit(tools: Path, tree: Path) -> None:
    """No version that is locked has a known vulnerability."""
    step("pip-audit")
    run(str(tools / "pip-audit"), "--requirement", str(tree / LOCK), "--require-hashes", "--disable-pip", "--strict")


# --- what a user gets


def install(tools: Path, python: str, tree: Path, wheel: Path, venv: Path) -> Path:
    """The wheel in a clean environment, as docs/upgrading.md says: what it needs by hash, then it alone."""
    step(f"install on Python {python}")
    run(str(tools / "uv"), "venv", "--quiet", "--no-config", "--python", python, str(venv))
    pip = [str(tools / "uv"), "pip", "install", "--quiet", "--python", str(venv / "bin/python")]
    run(*pip, "--require-hashes", "--no-deps", "-r", str(tree / LOCK))
    run(*pip, "--no-deps", str(wheel))
    return venv


def no_startup_files(venv: Path) -> None:
    """Nothing that was installed runs when an interpreter starts. `_virtualenv.pth` is the environment's own."""
    found = [path.name for path in venv.rglob("*.pth") if path.name != "_virtualenv.pth"]
    found += [path.name for path in venv.rglob("*customize.py")]
    if found:
        raise ReleaseError(f"files that run when an interpreter starts: {found}")


def smoke(tree: Path, program: Sequence[str], python: Path, version: str, commit: str) -> None:
    step(f"smoke test of {Path(program[-1]).name}")
    run(str(python), "-I", str(tree / SMOKE), f"relayd {version} (commit {commit[:12]})", *program)


# --- commands


def step(text: str) -> None:
    print(f"== {text}", flush=True)


def said(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def run(*command: str, more: Mapping[str, str] | None = None, umask: int = -1) -> None:
    """Raises: CalledProcessError."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELAYD_", "PYTHON"))}
    subprocess.run(command, check=True, env={**kept, **(more or {})}, umask=umask)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
