"""Where a tree comes from: real repositories, asked with the real git."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.coherence_flipflop import git
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.source.git import GitError, blobs_of, commit_of
from relayd.config.source.git_state import find_git, git_state
from relayd.config.source.git_tree import BlobCache, read_git_tree
from relayd.config.source.provenance import Provenance, blob_name, mismatch, parse_manifest, write_manifest
from relayd.config.source.tree import FileCache, Tree, read_coherent

RELAY = 'schema = 1\nrealm = "test"\n'


def provenance(root: Path, cache: FileCache | None = None) -> Provenance:
    later = time.time() + 3600
    found = read_coherent(root, wall=lambda: later, sleep=time.sleep, deadline=0, cache=cache)
    assert isinstance(found, Tree), found
    return found.provenance


def make(root: Path) -> Path:
    (root / "keys.d").mkdir(parents=True)
    (root / "relay.toml").write_text(RELAY)
    (root / "keys.d" / "k.toml").write_text("# key\n")
    return root


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = make(tmp_path / "repo")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def head(repo: Path) -> str:
    return git(repo, "rev-parse", "HEAD")


# --- git


def test_a_tree_with_the_bytes_of_its_commit_is_clean(repo: Path) -> None:
    assert provenance(repo) == Provenance(commit=head(repo), dirty=(), source="git")
    assert str(provenance(repo)) == f"commit {head(repo)[:12]}, clean"


def test_edits_new_files_and_missing_ones_are_dirty_and_other_files_are_not(repo: Path) -> None:
    (repo / "relay.toml").write_text(RELAY + "# edited\n")
    (repo / "keys.d" / "new.toml").write_text("x")
    (repo / "keys.d" / "k.toml").unlink()
    (repo / "README.md").write_text("x")
    (repo / "keys.d" / "k.toml~").write_text("x")

    found = provenance(repo)

    assert found.dirty == ("keys.d/k.toml", "keys.d/new.toml", "relay.toml")
    assert str(found).endswith(", dirty: 3 files")


def test_what_git_is_told_to_overlook_is_dirty_all_the_same(repo: Path) -> None:
    git(repo, "update-index", "--assume-unchanged", "relay.toml")
    (repo / "relay.toml").write_text(RELAY + "# edited\n")

    assert provenance(repo).dirty == ("relay.toml",)


def test_a_detached_head_and_packed_refs_are_understood(repo: Path) -> None:
    git(repo, "pack-refs", "--all")
    assert not (repo / ".git" / "refs" / "heads" / "main").exists()
    assert provenance(repo).commit == head(repo)
    git(repo, "checkout", "-q", "--detach")
    assert provenance(repo).commit == head(repo)
    assert git_state(find_git(str(repo))).ref == ""


def test_a_loose_ref_counts_before_a_packed_one(repo: Path) -> None:
    git(repo, "pack-refs", "--all")
    git(repo, "commit", "--allow-empty", "-qm", "second")

    assert git_state(find_git(str(repo))).commit == head(repo)


def test_a_linked_worktree_has_a_state_of_its_own(repo: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    side = tmp_path / "side"
    (side / "relay.toml").write_text(RELAY + "# side\n")
    git(side, "commit", "-qam", "side")

    assert (provenance(side).commit, provenance(repo).commit) == (head(side), head(repo))
    assert head(side) != head(repo)
    lock = Path(git_state(find_git(str(side))).directory) / "index.lock"
    lock.write_text("")
    found = read_coherent(side, wall=time.time, sleep=time.sleep, deadline=0)
    assert not isinstance(found, Tree)
    assert provenance(repo).dirty == ()


def test_a_tree_below_the_top_of_a_repository_is_proved_by_its_own_files(tmp_path: Path) -> None:
    make(tmp_path / "mono" / "deploy" / "relayd")
    (tmp_path / "mono" / "main.c").write_text("x")
    git(tmp_path / "mono", "init", "-q")
    git(tmp_path / "mono", "add", "-A")
    git(tmp_path / "mono", "commit", "-qm", "first")
    (tmp_path / "mono" / "main.c").write_text("y")

    found = provenance(tmp_path / "mono" / "deploy" / "relayd")

    assert (found.commit, found.dirty) == (head(tmp_path / "mono"), ())


def test_a_tree_that_only_lies_in_somebodys_work_tree_has_no_commit(repo: Path) -> None:
    stranger = make(repo / "scratch")

    assert provenance(stranger) == Provenance()


def test_a_repository_without_a_commit_is_unknown(tmp_path: Path) -> None:
    root = make(tmp_path / "new")
    git(root, "init", "-q")

    assert provenance(root) == Provenance()


def test_a_sha_256_repository_is_proved_with_its_own_hash(tmp_path: Path) -> None:
    root = make(tmp_path / "new")
    git(root, "init", "-q", "--object-format=sha256")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")

    found = provenance(root)

    assert (len(found.commit), found.dirty) == (64, ())


def test_a_shallow_clone_is_as_good(repo: Path, tmp_path: Path) -> None:
    git(repo, "commit", "--allow-empty", "-qm", "second")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repo}", "shallow")

    assert provenance(tmp_path / "shallow") == Provenance(commit=head(repo), dirty=(), source="git")


def test_line_ends_that_git_converts_are_no_change(repo: Path) -> None:
    (repo / "relay.toml").write_bytes(RELAY.replace("\n", "\r\n").encode())

    assert provenance(repo).dirty == ()


def test_a_repository_of_another_user_is_no_obstacle(repo: Path) -> None:
    if os.geteuid() == 0:
        for path in [repo, *repo.rglob("*")]:
            os.chown(path, 12345, 12345)

    assert provenance(repo).dirty == ()


def test_without_a_git_program_the_commit_is_known_and_nothing_is_proved(repo: Path) -> None:
    script = (
        "import sys, time; sys.path[:0] = ['tests', 'tests/config/source']; from pathlib import Path;"
        "from test_provenance import provenance; p = provenance(Path(sys.argv[1])); print(p.commit, p.dirty)"
    )
    environment = {**os.environ, "PATH": "/nonexistent"}
    root = Path(__file__).parent.parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(repo)], cwd=root, env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{head(repo)} None\n"


def test_nothing_of_the_repository_is_written_and_no_program_of_its_config_is_run(repo: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    hook = repo / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    git(repo, "config", "core.fsmonitor", f"touch {marker}; false")
    os.utime(repo / "relay.toml")  # so that an ordinary `git status` would refresh the index
    before = {path: path.stat().st_mtime_ns for path in (repo / ".git").rglob("*")}

    provenance(repo)

    assert {path: path.stat().st_mtime_ns for path in (repo / ".git").rglob("*")} == before
    assert not marker.exists()


def test_variables_that_a_git_hook_sets_do_not_lead_elsewhere(repo: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[:0] = ['tests', 'tests/config/source']; from pathlib import Path;"
        "from test_provenance import provenance; print(provenance(Path(sys.argv[1])).commit)"
    )
    environment = {**os.environ, "GIT_DIR": str(tmp_path / "nowhere"), "GIT_WORK_TREE": str(tmp_path)}
    root = Path(__file__).parent.parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(repo)], cwd=root, env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == head(repo)


def test_with_a_cache_a_change_is_still_seen(repo: Path) -> None:
    cache = FileCache()
    assert provenance(repo, cache).dirty == ()
    (repo / "relay.toml").write_text(RELAY + "# edited\n")
    assert provenance(repo, cache).dirty == ("relay.toml",)
    git(repo, "commit", "-qam", "second")
    assert provenance(repo, cache) == Provenance(commit=head(repo), dirty=(), source="git")


# --- other sources


def test_a_directory_named_like_a_commit_says_so(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    make(tmp_path / commit)
    (tmp_path / "current").symlink_to(commit)

    assert provenance(tmp_path / "current") == Provenance(commit=commit, source="link")


@pytest.mark.parametrize(("text", "commit"), [("v1.2.3\n", "v1.2.3"), ("", "unknown"), ("\x1b[31m\n", "unknown")])
def test_a_revision_file_is_believed_if_it_is_one_plain_word(tmp_path: Path, text: str, commit: str) -> None:
    root = make(tmp_path / "tree")
    (root / "REVISION").write_text(text)

    assert provenance(root).commit == commit


def test_a_proof_counts_more_than_a_manifest_and_a_manifest_more_than_a_name(repo: Path) -> None:
    files = read_git_tree(repo, "HEAD", "", BlobCache()).files
    (repo / "manifest.toml").write_text(write_manifest(files, "from-the-manifest"))
    (repo / "REVISION").write_text("from-the-file\n")

    assert provenance(repo).commit == head(repo)
    (repo / ".git").rename(repo / "git")
    assert provenance(repo) == Provenance(commit="from-the-manifest", dirty=(), source="manifest")
    (repo / "manifest.toml").unlink()
    assert provenance(repo) == Provenance(commit="from-the-file", source="revision")


def test_nothing_known_is_unknown(tmp_path: Path) -> None:
    found = provenance(make(tmp_path / "tree"))

    assert found == Provenance()
    assert str(found) == "commit unknown"


# --- other commits


def test_the_files_of_a_commit_are_those_of_the_tree_alone(repo: Path) -> None:
    (repo / "README.md").write_text("x")
    (repo / "tests.d").mkdir()
    (repo / "tests.d" / "t.toml").write_bytes(b"\0\r\n\xff")
    (repo / "keys.d" / "link.toml").symlink_to("k.toml")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "more")
    (repo / "relay.toml").write_text("not committed")

    assert read_git_tree(repo, "HEAD", "", BlobCache()).files == {
        "relay.toml": RELAY.encode(),
        "keys.d/k.toml": b"# key\n",
        "keys.d/link.toml": b"# key\n",
        "tests.d/t.toml": b"\0\r\n\xff",
    }
    assert set(read_git_tree(repo, "HEAD~1", "", BlobCache()).files) == {"relay.toml", "keys.d/k.toml"}


@pytest.mark.parametrize("name", ["nonsense", "--all", "HEAD:relay.toml", "", "HEAD~99"])
def test_a_revision_that_is_none_is_an_error(repo: Path, name: str) -> None:
    with pytest.raises(GitError):
        commit_of(repo, name)


def test_a_directory_that_is_no_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="not a git repository"):
        blobs_of(tmp_path, "HEAD")


# --- names and manifests


@settings(deadline=None, max_examples=5)
@given(st.binary(max_size=200))
def test_a_blob_has_the_name_that_git_gives_it(data: bytes) -> None:
    done = subprocess.run(["git", "hash-object", "--stdin"], input=data, capture_output=True, check=True)

    assert blob_name(data) == done.stdout.decode().strip()


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1), st.binary(max_size=9)
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
)
def test_a_manifest_is_read_as_it_was_written(files: dict[str, bytes], commit: str) -> None:
    manifest = parse_manifest(write_manifest(files, commit).encode())

    assert manifest.commit == commit
    assert mismatch(manifest, files) == ""
    if files:
        path = min(files)
        assert path in mismatch(manifest, {**files, path: files[path] + b"x"})
        assert path in mismatch(manifest, {name: data for name, data in files.items() if name != path})
    assert "other.toml" in mismatch(manifest, {**files, "other.toml": b""}) or "other.toml" in files
