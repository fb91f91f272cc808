"""CI files of a new tree: what checks a change at GitHub, GitLab, Forgejo and Gitea, and what it installs for that.

Rule: relayd is installed from one constant, RELAYD_INSTALL, which names a version for good: a commit or tag, or a file
with its hash. Never a bare name, which a stranger could register at an index. All other packages are pinned by hash.

Theory: what this very relayd was installed from is the best guess, and Python keeps a note of it. Source: PEP 610,
direct_url.json. A folder (a development install) says it with its own origin and commit.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import re
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from relayd.cli.first_run import ask_git

LOCK = ".ci/requirements.lock"
# Where each file comes from in relayd/cli/templates, and the label of the runner.
_FILES = {
    ".github/workflows/relayd.yml": ("github.yml", ""),
    ".gitlab-ci.yml": ("gitlab.yml", ""),
    ".forgejo/workflows/relayd.yml": ("forgejo.yml", "docker"),
    ".gitea/workflows/relayd.yml": ("forgejo.yml", "ubuntu-latest"),
}
_STEPS = """\
if [ -z "$RELAYD_INSTALL" ]; then
  echo "RELAYD_INSTALL is empty: say where relayd comes from (relayd init . --only-ci --install SOURCE)" >&2
  exit 1
fi
python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/requirements.lock
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$RELAYD_INSTALL"
"""
_COMMIT = r"[0-9a-f]{40}(?:[0-9a-f]{24})?"
_GOOD = (
    re.compile(rf"git\+(?:https|ssh)://[^\s\"'\\$`@]+(?:@[^\s\"'\\$`@]+)?@({_COMMIT}|v?[0-9][\w.-]*)"),
    re.compile(r"https://[^\s\"'\\$`]+\.(?:whl|tar\.gz)#sha256=[0-9a-f]{64}"),
)
HELP = (
    "where CI gets relayd from: git+https://HOST/PATH@COMMIT, or https://HOST/relayd-X.Y.Z-py3-none-any.whl#sha256=HASH"
    " (default: where this one came from)"
)


def ci_files(source: str) -> dict[str, str]:
    """Every CI file of a tree, by path.

    Args:
        source: what RELAYD_INSTALL says; "" makes the job stop with a hint.
    """
    files = {path: _filled(_template(name), source, runner) for path, (name, runner) in _FILES.items()}
    return files | {LOCK: _template("requirements.lock")}


def wrong_source(source: str) -> str:
    """Why that is no source for CI; "" when it is one."""
    if any(form.fullmatch(source) for form in _GOOD):
        return ""
    return f"{source!r} does not name one relayd for good: expected git+https://HOST/PATH@COMMIT (or @vX.Y.Z), or the \
https:// address of a wheel with #sha256=HASH"


def install_source() -> str:
    """Where this relayd was installed from; "" where that is nowhere that CI could reach."""
    try:
        noted = importlib.metadata.distribution("relayd").read_text("direct_url.json")
        found = source_of(json.loads(noted or "{}"))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""
    return "" if wrong_source(found) else found


def source_of(noted: dict[str, Any]) -> str:
    """The source that a direct_url.json tells of; "" for none."""
    url = str(noted.get("url", ""))
    match noted:
        case {"vcs_info": {"vcs": "git", "commit_id": str(commit)}}:
            return f"git+{url}@{commit}"
        case {"archive_info": {"hashes": {"sha256": str(digest)}}}:
            return f"{url}#sha256={digest}"
        case {"dir_info": _}:
            return _source_of_folder(Path(unquote(urlsplit(url).path)))
    return ""


def _source_of_folder(folder: Path) -> str:
    origin, commit = ask_git(folder, "remote", "get-url", "origin"), ask_git(folder, "rev-parse", "HEAD")
    if not origin or not commit:
        return ""
    if short := re.fullmatch(r"([\w.-]+@[\w.-]+):(?!/)(.+)", origin):  # git@host:path
        origin = f"ssh://{short[1]}/{short[2]}"
    return f"git+{origin}@{commit}"


def _filled(text: str, source: str, runner: str) -> str:
    place = re.search(r"^( *)@STEPS@\n", text, re.MULTILINE)
    assert place is not None
    text = text.replace(place[0], textwrap.indent(_STEPS, place[1]))
    return text.replace("@INSTALL@", source).replace("@RUNNER@", runner)


def _template(name: str) -> str:
    return importlib.resources.files("relayd.cli").joinpath("templates", name).read_text(encoding="utf-8")
