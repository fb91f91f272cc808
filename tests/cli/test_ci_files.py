"""The CI files that `init` writes: well-formed, run step by step on a fresh clone, and installing what has one name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from relayd.cli import main
from relayd.cli.ci_files import ci_files, install_source, source_of, wrong_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = f"git+https://git.example.com/ops/relayd@{COMMIT}"
ROOT = Path(__file__).parents[2]
WORKFLOWS = (".github/workflows/relayd.yml", ".forgejo/workflows/relayd.yml", ".gitea/workflows/relayd.yml")
FORGES = (*WORKFLOWS, ".gitlab-ci.yml")


@attrs.frozen
class Clone:
    """A fresh clone of a new tree, as a CI job has it: `pip` only notes what it was asked for."""

    root: Path
    environment: dict[str, str]
    asked: Path

    def step(self, script: str, folder: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", script], cwd=folder or self.root, env={**self.environment, **more},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    folder = tmp_path_factory.mktemp("ci")
    tree, asked = folder / "ops/tree", folder / "pip.txt"
    program(folder / "bin/relayd", f'#!/bin/sh\nexec {sys.executable} -m relayd "$@"\n')
    program(folder / "bin/python", f'#!/bin/sh\n[ "$1 $2" = "-m pip" ] && echo "$@" >> {asked} && exit\nexit 9\n')
    who = {f"GIT_{role}_{what}": "a@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "CI", "GITHUB_"))},
        **who,
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "XDG_CONFIG_HOME": str(folder / "home"),
        "CI": "true",
        "GITHUB_BASE_REF": "main",
        "RELAYD_INSTALL": SOURCE,
    }
    assert main(["init", str(tree), "--install", SOURCE, "--identity", str(folder / "identity")]) == 0
    for words in (["add", "."], ["commit", "-q", "--no-verify", "-m", "first"], ["branch", "-M", "main"]):
        subprocess.run(["git", "-C", str(tree), *words], env=environment, check=True)
    root = folder / "clone"
    subprocess.run(["git", "clone", "-q", str(tree), str(root)], env=environment, check=True)
    return Clone(root, environment, asked)


def steps(workflow: dict[str, Any]) -> dict[str, str]:
    """The shell steps of a workflow, by name."""
    (job,) = workflow["jobs"].values()
    return {step["name"]: step["run"] for step in job["steps"] if "run" in step}


def read(clone: Clone, path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((clone.root / path).read_text())
    return found


@pytest.fixture
def broken(clone: Clone) -> Iterator[None]:
    """A change that the daemon would hold, and that fails a scenario."""
    account = clone.root / "accounts.d/simulator.toml"
    before = account.read_text()
    account.write_text('kind = "simulator"\nenabled = false\n')
    yield
    account.write_text(before)


def test_every_file_fits_the_schema_of_its_forge(clone: Clone, tmp_path: Path) -> None:
    component = tmp_path / "component.yml"
    component.write_text((ROOT / "deploy/ci/gitlab/relayd.yml").read_text().partition("\n---\n")[2])
    for schema, files in {
        "vendor.github-workflows": [clone.root / path for path in WORKFLOWS],
        "vendor.github-actions": [ROOT / "deploy/ci/github/action.yml"],
        "vendor.gitlab-ci": [clone.root / ".gitlab-ci.yml", component],
    }.items():
        program = Path(sys.executable).with_name("check-jsonschema")
        ran = subprocess.run([program, "--builtin-schema", schema, *files], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", WORKFLOWS)
def test_a_workflow_has_the_form_of_one(clone: Clone, path: str) -> None:
    workflow = read(clone, path)

    assert set(workflow) <= {"name", True, "permissions", "env", "jobs"}  # YAML 1.1 reads `on` as a truth value
    assert set(workflow[True]) == {"push", "pull_request"}
    (job,) = workflow["jobs"].values()
    assert set(job) <= {"runs-on", "container", "steps"}
    for step in job["steps"]:
        assert set(step) <= {"name", "uses", "with", "run", "if", "env"}
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/checkout@v4"))


def test_gitea_runs_what_forgejo_runs(clone: Clone) -> None:
    forgejo, gitea = (clone.root / path for path in WORKFLOWS[1:])
    assert gitea.read_text().replace("ubuntu-latest", "docker") == forgejo.read_text()


@pytest.mark.parametrize("path", WORKFLOWS[:2])
def test_the_steps_of_a_workflow_pass_a_good_tree_and_refuse_a_bad_one(
    clone: Clone, path: str, request: pytest.FixtureRequest
) -> None:
    run = steps(read(clone, path))
    for name in ("Install relayd", "Check", "Check against the base", "Test"):
        ran = clone.step(run[name])
        assert ran.returncode == 0, ran.stdout + ran.stderr
    request.getfixturevalue("broken")

    assert clone.step(run["Check"]).returncode == 3  # a group that keys use and that has no account
    against = clone.step(run["Check against the base"])
    assert (against.returncode, "W-HELD" in against.stdout) == (3, True)
    assert clone.step(run["Test"]).returncode == 1
    comment = clone.step(run["Comment"].partition(" | ")[0])
    assert "```diff\n~ account simulator" in comment.stdout


def test_forgejo_checks_out_by_git_alone(clone: Clone, tmp_path: Path) -> None:
    run = steps(read(clone, ".forgejo/workflows/relayd.yml"))["Check out"]
    origin = clone.root.parent
    head = subprocess.run(
        ["git", "-C", str(clone.root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    ran = clone.step(
        run, folder=tmp_path, GITHUB_SERVER_URL=f"file://{origin}", GITHUB_REPOSITORY="ops/tree", GITHUB_SHA=head,
        GITHUB_REF="refs/heads/main", TOKEN="t",
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "relay.toml").exists()


def test_gitlab_runs_the_same(clone: Clone, request: pytest.FixtureRequest) -> None:
    (job,) = read(clone, ".gitlab-ci.yml").values()
    assert set(job) == {"image", "rules", "variables", "script", "after_script"}
    assert job["variables"]["RELAYD_INSTALL"] == SOURCE
    install, check, test = job["script"]

    assert [clone.step(one).returncode for one in (install, check, test)] == [0, 0, 0]
    assert clone.step(check, CI_MERGE_REQUEST_DIFF_BASE_SHA="HEAD").returncode == 0
    request.getfixturevalue("broken")
    ran = clone.step(check, CI_MERGE_REQUEST_DIFF_BASE_SHA="HEAD")
    assert (ran.returncode, "W-HELD" in ran.stdout) == (3, True)
    assert clone.step(job["after_script"][0]).returncode == 0  # no merge request: nothing to comment on


@pytest.mark.parametrize("path", FORGES)
def test_every_package_is_installed_by_hash_or_by_one_name(clone: Clone, path: str) -> None:
    text = (clone.root / path).read_text()
    clone.asked.unlink(missing_ok=True)
    script = read(clone, path)
    install = script["relayd"]["script"][0] if "relayd" in script else steps(script)["Install relayd"]
    assert clone.step(install).returncode == 0

    lock, relayd = clone.asked.read_text().splitlines()
    assert "--require-hashes -r .ci/requirements.lock" in lock
    assert relayd.endswith(f"--no-deps --no-build-isolation {SOURCE}")
    assert text.count(SOURCE) == 1
    assert not re.search(r"pip install[^\n]*\brelayd\s*$", text, re.MULTILINE)
    empty = clone.step(install, RELAYD_INSTALL="")
    assert (empty.returncode, "RELAYD_INSTALL is empty" in empty.stderr) == (1, True)


def test_every_line_of_the_lock_has_a_hash_and_it_agrees_with_the_release(clone: Clone) -> None:
    lock = (clone.root / ".ci/requirements.lock").read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    release = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "deploy/requirements.lock").read_text(), re.MULTILINE))

    entries = re.split(r"\n(?=\S)", "\n".join(line for line in lock.splitlines() if not line.lstrip().startswith("#")))
    assert all("--hash=sha256:" in entry for entry in entries if entry.strip())
    assert {name: release.get(name, version) for name, version in pinned.items()} == pinned
    assert {"hatchling", "trio", "anyascii"} <= pinned.keys()
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = re.findall(r'^  "([\w-]+)>=', project[: project.index("[project.optional")], re.MULTILINE)
    assert {name for name in dependencies if name not in pinned} == set()


# --- where relayd comes from


@pytest.mark.parametrize(
    "source",
    [
        SOURCE,
        "git+ssh://git@git.example.com/ops/relayd.git@v0.1.0",
        f"https://example.com/relayd-0.1.0-py3-none-any.whl#sha256={'a' * 64}",
    ],
)
def test_what_names_one_version_is_a_source(source: str) -> None:
    assert wrong_source(source) == ""


@pytest.mark.parametrize(
    "source",
    [
        "relayd", "relayd==0.1.0", "git+https://git.example.com/ops/relayd", "git+https://git.example.com/ops/relayd@main",
        "git+http://git.example.com/r@" + COMMIT, "https://example.com/relayd-0.1.0-py3-none-any.whl", ".", "",
        SOURCE + '"; rm -rf /', SOURCE + "$(id)",
    ],
)  # fmt: skip
def test_anything_else_is_refused(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wrong_source(source)
    if source:
        assert main(["init", str(tmp_path / "new"), "--install", source]) == 2
        assert "--install: " in capsys.readouterr().err


def test_the_source_is_what_this_relayd_was_installed_from(tmp_path: Path) -> None:
    vcs = {"url": "https://git.example.com/ops/relayd", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}
    assert source_of(vcs) == SOURCE
    digest = {"sha256": "b" * 64}
    wheel = {"url": "https://example.com/relayd-0.1.0-py3-none-any.whl", "archive_info": {"hashes": digest}}
    assert source_of(wheel) == f"https://example.com/relayd-0.1.0-py3-none-any.whl#sha256={'b' * 64}"
    assert source_of({}) == ""
    assert source_of({"url": f"file://{tmp_path}", "dir_info": {}}) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (
        ["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"],
        ["remote", "add", "origin", "git@git.example.com:ops/relayd.git"],
    ):  # fmt: skip
        subprocess.run([*git, *words], check=True)
    found = source_of({"url": f"file://{tmp_path}", "dir_info": {"editable": True}})
    assert re.fullmatch(r"git\+ssh://git@git\.example\.com/ops/relayd\.git@[0-9a-f]{40}", found)
    assert wrong_source(found) == ""
    assert install_source() == "" or not wrong_source(install_source())


def test_the_files_are_written_anew_without_the_rest_of_the_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "new"
    assert main(["init", str(tree), "--only-ci"]) == 1  # there is no tree
    main(["init", str(tree), "--no-git"])
    (tree / ".gitlab-ci.yml").unlink()
    before = (tree / "relay.toml").read_bytes(), (tree / "keys.d/demo.toml").read_bytes()
    capsys.readouterr()

    assert main(["init", str(tree), "--only-ci", "--install", SOURCE, "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == sorted(ci_files(SOURCE).keys() - {".gitlab-ci.yml"})  # what was deleted is not wanted
    assert SOURCE in (tree / ".github/workflows/relayd.yml").read_text()
    assert ((tree / "relay.toml").read_bytes(), (tree / "keys.d/demo.toml").read_bytes()) == before


# --- what wraps it


def test_the_composite_action_runs_on_a_clone(clone: Clone, tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / "deploy/ci/github/action.yml").read_text())
    assert set(action) == {"name", "description", "inputs", "runs"}
    assert action["runs"]["using"] == "composite"
    run = {step["name"]: step for step in action["runs"]["steps"]}
    assert all(step["shell"] == "bash" for step in run.values())
    for step in run.values():  # what a person writes reaches the shell as a variable, never as text of the script
        assert "${{" not in step["run"]
    program(tmp_path / "relayd/bin/python", f'#!/bin/sh\necho "$@" >> {tmp_path}/pip\n')
    program(tmp_path / "bin/python3", "#!/bin/sh\nexit 0\n")
    ran = clone.step(
        run["Install relayd"]["run"], RUNNER_TEMP=str(tmp_path), GITHUB_PATH=str(tmp_path / "path"),
        GITHUB_ACTION_PATH=str(ROOT / "deploy/ci/github"), PATH=f"{tmp_path}/bin:{os.environ['PATH']}",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lock, relayd = (tmp_path / "pip").read_text().splitlines()
    assert Path(lock.split()[-1]).resolve() == ROOT / "relayd/cli/templates/requirements.lock"
    assert "--require-hashes" in lock
    assert Path(relayd.split()[-1]).resolve() == ROOT

    log = tmp_path / "calls.log"
    log.write_text('{"time":"2026-10-26T05:00:00Z","event":"call.done","key":"demo","model":"m","account":"gone"}\n')
    given = {"TREE": ".", "BASE": "HEAD", "DENY": "true", "REPLAY": str(log), "NAME": ""}
    ran = clone.step(run["Check"]["run"], **given)
    assert (ran.returncode, "replayed 1 call" in ran.stdout) == (0, True), ran.stdout + ran.stderr
    assert clone.step(run["Test"]["run"], TREE=".").returncode == 0


def test_the_gitlab_component_runs_on_a_clone(clone: Clone) -> None:
    spec, job = yaml.safe_load_all((ROOT / "deploy/ci/gitlab/relayd.yml").read_text())
    inputs = spec["spec"]["inputs"]
    assert "default" not in inputs["install"]  # there is none that would be right for everybody
    assert re.search(inputs["install"]["regex"], SOURCE)
    assert not re.search(inputs["install"]["regex"], "relayd")
    job = job["relayd"]
    given = {"RELAYD_INSTALL": SOURCE, "RELAYD_TREE": ".", "RELAYD_REPLAY": "", "RELAYD_NAME": ""}
    assert job["variables"].keys() - {"GIT_DEPTH"} == given.keys()

    for one in (*job["script"], *job["after_script"]):
        ran = clone.step(one, **given)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert clone.step(job["script"][1], **given, CI_MERGE_REQUEST_DIFF_BASE_SHA="HEAD").returncode == 0


# --- the hook of a clone


def test_check_says_when_the_hook_of_a_clone_is_off(clone: Clone) -> None:
    outside = {name: value for name, value in clone.environment.items() if name != "CI"}
    said = "note: this clone's pre-commit hook is off (git config core.hooksPath .githooks)"
    alone = Clone(clone.root, outside, clone.asked)

    assert said in alone.step("relayd check").stderr
    assert said not in clone.step("relayd check").stderr  # CI commits nothing
    assert said not in alone.step("relayd check", GIT_INDEX_FILE="index").stderr  # it is the hook that asks
    subprocess.run(["git", "-C", str(clone.root), "config", "core.hooksPath", ".githooks"], check=True)
    assert said not in alone.step("relayd check").stderr
    assert "git config core.hooksPath .githooks" in (clone.root / "README.md").read_text()
