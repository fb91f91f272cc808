"""`relayd check` with a base, with a choice of codes, on this machine; and `relayd manifest`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import KEY
from cli_tree import Tree, make_sealing_tree, make_tree
from reload_world import Tree as GitTree
from reload_world import key_of

from relayd.config.problems.codes import explanations
from relayd.config.secrets.api_keys import key_hash
from relayd.config.source.tree import Unstable, read_coherent


def git(tree: Tree, *words: str) -> str:
    return GitTree(tree.root).git(*words)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A repository with one commit, eight keys in it."""
    tree = make_tree(tmp_path)
    for number in range(8):
        tree.write(f"keys.d/k{number}.toml", f'hashes = [{{ sha256 = "{key_hash(key_of(number))}" }}]\n')
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "one")
    return tree


def remove_keys(tree: Tree, count: int) -> None:
    for number in range(count):
        (tree.root / f"keys.d/k{number}.toml").unlink()


# --- --base


def test_a_pull_request_is_told_what_it_changes_and_that_it_would_be_held(tree: Tree) -> None:
    remove_keys(tree, 6)
    tree.write("accounts.d/sample.toml", 'kind = "simulator"\npriority = 3\n')
    git(tree, "commit", "-qam", "two")
    ran = tree.run("check", "--base", "HEAD~1")

    assert ran.code == 0
    assert "tree: warning[W-HELD]: the daemon would hold this change: 6 of 8 keys would go" in ran.out
    assert "priority  50 -> 3" in ran.out
    assert "0 added, 1 changed, 6 removed" in ran.out
    digest = tree.run("check", "--json").json["digest"]
    assert f"relayd reload --accept {digest[:12]}" in ran.out
    assert tree.run("check", "--base", "HEAD~1", "--deny-warnings").code == 3
    assert tree.run("check", "--base", "HEAD~1", "--deny-warnings", "--ignore", "W-HELD").code == 0
    assert tree.run("check", "--base", "HEAD", "--deny-warnings").code == 0
    plan = tree.run("check", "--base", "HEAD~1", "--json").json["plan"]
    assert (len(plan["changes"]), len(plan["held"])) == (7, 1)
    assert (
        "::notice title=relayd plan::changes since" in tree.run("check", "--base", "HEAD~1", "--format", "github").out
    )


def test_the_first_commit_has_no_base_and_that_is_no_error(tree: Tree) -> None:
    ran = tree.run("check", "--base", "0" * 40)
    assert (ran.code, "there was no commit before" in ran.out) == (0, True)

    assert "HEAD~1: no such revision\n" in tree.run("check", "--base", "HEAD~1").err
    assert tree.run("check", "--base", "HEAD~1").code == 2
    assert tree.run("check", "--base", "").code == 2, "a variable that CI did not set"


def test_a_base_from_before_the_tree_or_with_errors_gives_no_plan_and_no_failure(tree: Tree) -> None:
    git(tree, "checkout", "-q", "--orphan", "before")
    git(tree, "rm", "-rqf", ".")
    git(tree, "commit", "-q", "--allow-empty", "-m", "nothing")
    git(tree, "checkout", "-q", "-b", "later")
    tree.write("relay.toml", "schema = 1\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "broken")
    tree.write("relay.toml", 'schema = 1\nrealm = "example"\n')

    assert "unknown, there was no tree in that commit" in tree.run("check", "--base", "before").out
    ran = tree.run("check", "--base", "later")
    assert (ran.code, "does not compile" in ran.out) == (0, True)


def test_a_base_without_the_folder_of_the_tree_gives_no_plan_and_no_failure(tmp_path: Path) -> None:
    repository = GitTree(tmp_path)
    repository.git("init", "-q")
    repository.git("commit", "-q", "--allow-empty", "-m", "before")
    tree = Tree(tmp_path / "config")
    tree.write("relay.toml", 'schema = 1\nrealm = "example"\n')
    repository.git("add", "-A")
    repository.git("commit", "-qm", "tree")
    ran = tree.run("check", "--base", "HEAD~1")

    assert (ran.code, "unknown, there was no tree in that commit" in ran.out) == (0, True)
    assert "changes since" in tree.run("check", "--base", "HEAD").out


def test_a_shallow_clone_is_told_what_it_lacks(tree: Tree, tmp_path: Path) -> None:
    git(tree, "commit", "-q", "--allow-empty", "-m", "two")
    GitTree(tmp_path).git("clone", "-q", "--depth", "1", f"file://{tree.root}", "clone")
    ran = Tree(tmp_path / "clone").run("check", "--base", "HEAD~1")

    assert ran.code == 2
    assert "a shallow clone" in ran.err
    assert Tree(tmp_path / "clone").run("check", "--base", "HEAD").code == 0


# --- codes


def test_notes_and_warnings_can_be_chosen_and_errors_cannot_be_hidden(tree: Tree) -> None:
    tree.write("keys.d/notes.txt", "x")
    tree.write("deny.toml", 'keys = ["gone"]\n')

    def codes(*words: str) -> list[str]:
        return [problem["code"] for problem in tree.run("check", "--json", *words).json["problems"]]

    assert codes() == ["N-UNKNOWN-ID", "W-STRAY-FILE"]
    assert codes("--ignore", "n-,W-HELD") == ["W-STRAY-FILE"]
    assert codes("--select", "N") == ["N-UNKNOWN-ID"]
    assert tree.run("check", "--deny-warnings", "--select", "N-").code == 0
    tree.write("relay.toml", "schema = 1\n")
    assert "E-MISSING-KEY" in codes("--select", "N")
    assert "an error cannot be ignored" in tree.run("check", "--ignore", "E-MISSING-KEY").err
    assert tree.run("check", "--ignore", "Q").code == 2


def test_every_code_is_explained_alone_and_with_others_of_its_beginning(tree: Tree) -> None:
    everything = "".join(tree.run("check", "--explain", letter).out for letter in "EWN")

    assert [line for line in everything.splitlines() if line in explanations()] == [
        code for letter in "EWN" for code in explanations() if code.startswith(letter)
    ]
    assert tree.run("check", "--explain", "e-syntax").out.startswith("E-SYNTAX\n\n")
    ran = tree.run("check", "--explain", "E-SEALCONTEXT")
    assert (ran.code, "did you mean E-SEAL-CONTEXT" in ran.err) == (2, True)


# --- --env


def test_env_looks_at_this_machine_and_without_it_nothing_of_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAYD_CREDENTIALS", str(tmp_path))
    sealing = make_sealing_tree(tmp_path)
    tree, here = sealing.tree, ["--identity", str(sealing.file)]
    secret = tmp_path / "secret"
    tree.write("accounts.d/f.toml", f'kind = "api-key"\n[credential]\nfile = "{secret}"\n')
    tree.write("accounts.d/s.toml", 'kind = "api-key"\n[credential]\nfile = "x"\n')
    assert tree.run("account", "seal", "s", stdin="sk-ant-api03-canary-canary-canary").code == 0

    assert tree.run("check", "--deny-warnings", "--ignore", "W-NO-KEYS").code == 0
    ran = tree.run("check", "--env", *here)
    assert ran.code == 1
    assert f"accounts.d/f.toml:3:8: error[E-ENV-FILE]: credential.file: {secret}: no such file" in ran.out

    secret.write_text("sk-ant-api03-canary-canary-canary")
    ran = tree.run("check", "--env", *here)
    assert (ran.code, "on this machine: nothing is missing" in ran.out) == (0, True)
    ran = tree.run("check", "--env", "--identity", str(tmp_path / "none"))
    assert (ran.code, "E-IDENTITY-FILE" in ran.out) == (1, True)
    assert tree.run("check", "--env", "--json", *here).json["environment"] == []
    assert "canary" not in ran.all


# --- manifest


def test_a_manifest_makes_a_copy_whole_or_nothing(tree: Tree, tmp_path: Path) -> None:
    assert tree.run("manifest", "--write").code == 0
    head = git(tree, "rev-parse", "HEAD")
    copy = Tree(Path(shutil.copytree(tree.root, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))))
    whole = read_coherent(copy.root, wall=lambda: 2e9, sleep=lambda seconds: None, deadline=0)
    assert not isinstance(whole, Unstable)
    assert (whole.provenance.commit, whole.provenance.source) == (head, "manifest")

    text = copy.read("keys.d/k1.toml")
    for spoil in (
        lambda: (copy.root / "keys.d/k1.toml").unlink(),
        lambda: copy.write("keys.d/k1.toml", text + "# x\n"),
        lambda: copy.write("keys.d/k99.toml", text),
    ):
        spoil()
        found = read_coherent(copy.root, wall=lambda: 2e9, sleep=lambda seconds: None, deadline=0)
        assert isinstance(found, Unstable)
        assert "manifest.toml" in found.reason
        copy.write("keys.d/k1.toml", text)
        (copy.root / "keys.d/k99.toml").unlink(missing_ok=True)
    assert copy.run("check").code == 0
    assert KEY not in copy.content


# --- places that the nodes permit


def test_what_the_tree_may_not_name_of_its_nodes_is_an_error(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    account = 'kind = "api-key"\nbase_url = "{url}"\n[credential]\nfile = "{file}"\n'
    tree.write("accounts.d/a.toml", account.format(url="https://api.anthropic.com", file="/etc/shadow"))
    tree.write("accounts.d/b.toml", account.format(url="https://evil.example", file="main"))
    tree.write("accounts.d/c.toml", account.format(url="http://127.0.0.1:9", file="/run/relayd/main"))
    tree.write(
        "relay.toml", tree.read("relay.toml") + '\n[log]\nfile = "/etc/cron.d/x"\n[state]\npassword_file = "/etc/x"\n'
    )

    def found() -> list[tuple[str, str]]:
        problems = tree.run("check", "--json").json["problems"]
        return [(problem["file"], problem["code"]) for problem in problems if problem["severity"] == "error"]

    assert sorted(found()) == [
        ("accounts.d/a.toml", "E-CREDENTIAL-FILE"),
        ("accounts.d/b.toml", "E-CREDENTIAL-ORIGIN"),
        ("relay.toml", "E-CREDENTIAL-FILE"),
        ("relay.toml", "E-LOG-FILE"),
    ]
    assert tree.run("check").code == 1
    monkeypatch.setenv("RELAYD_CREDENTIALS", "/etc:/run/relayd")
    monkeypatch.setenv("RELAYD_ORIGINS", "https://evil.example")
    monkeypatch.setenv("RELAYD_LOG_DIR", "/etc/cron.d")
    assert found() == []
