"""Source URLs: what may be pulled from, and what git or ssh might take for something else."""

from __future__ import annotations

import pytest

from relayd.config.source.source_url import parse_source


@pytest.mark.parametrize(
    ("text", "url", "branch", "folder"),
    [
        ("git+ssh://git@example.com/team/tree.git#main", "ssh://git@example.com/team/tree.git", "main", ""),
        ("git+ssh://git@example.com:2222/~/tree#prod", "ssh://git@example.com:2222/~/tree", "prod", ""),
        ("git+ssh://[::1]:22/tree.git", "ssh://[::1]:22/tree.git", "main", ""),
        ("git+https://example.com/a/b.git#release/2026", "https://example.com/a/b.git", "release/2026", ""),
        ("https://user@example.com/b.git", "https://user@example.com/b.git", "main", ""),
        ("git+file:///srv/tree.git#main:infra/relay/", "file:///srv/tree.git", "main", "infra/relay"),
        ("git+file:///srv/with space.git#:x", "", "", ""),
    ],
)
def test_repositories_branches_and_folders(text: str, url: str, branch: str, folder: str) -> None:
    if not url:
        with pytest.raises(ValueError, match="not the address"):
            parse_source(text)
        return
    found = parse_source(text)

    assert (found.url, found.branch, found.folder) == (url, branch, folder)
    assert parse_source(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tree",
        "/srv/tree.git",
        "git@example.com:team/tree.git",
        "ext::sh -c touch% /tmp/x",
        "git+ext::sh",
        "git+http://example.com/tree.git",
        "git://example.com/tree.git",
        "git+ssh://-oProxyCommand=x/tree.git",
        "git+ssh://git@-oProxyCommand=x/tree.git",
        "git+ssh://-x@example.com/tree.git",
        "git+ssh://example.com",
        "git+ssh:///tree.git",
        "git+file://host/tree.git",
        "git+ssh://example.com/a\nb",
        "git+ssh://example.com/$(x)",
        "git+ssh://example.com/tree.git#--upload-pack=x",
        "git+ssh://example.com/tree.git#a..b",
        "git+ssh://example.com/tree.git#a b",
        "git+ssh://example.com/tree.git#a/.b",
        "git+ssh://example.com/tree.git#a.lock",
        "git+ssh://example.com/tree.git#a@{1}",
        "git+ssh://example.com/tree.git#main:../other",
        "git+ssh://example.com/tree.git#main:a/../b",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not the address|not understood|not the name|not a folder"):
        parse_source(text)


def test_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="RELAYD_SOURCE_KEY") as refused:
        parse_source("git+https://user:hunter2@example.com/tree.git")

    assert "hunter2" not in str(refused.value)
