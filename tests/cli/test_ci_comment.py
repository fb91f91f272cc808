"""`relayd ci-comment`: one comment, updated and never repeated, at an API like GitHub's, Gitea's and GitLab's."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from relayd.cli import main
from relayd.cli.ci_comment import LONGEST, body_of

TOKEN = "ghs_canary0123456789"


class Forge(ThreadingHTTPServer):
    """The comments of one request, as the three APIs keep them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: list[dict[str, Any]] = [{"id": 1, "body": "a person's\n<!-- relayd -->"}]
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.status = 0
        self.pages = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Forge

    def answer(self) -> None:
        forge, (path, _, query) = self.server, self.path.partition("?")
        forge.asked.append((self.command, path))
        forge.tokens.add(self.headers.get("Authorization") or f"private {self.headers['PRIVATE-TOKEN']}")
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        found: Any = {}
        if self.command == "GET":
            page = int(query.rpartition("page=")[2]) if forge.pages else 1
            found = forge.comments[(page - 1) * 100 : page * 100] if forge.pages else forge.comments
        elif self.command == "POST":
            forge.comments.append({"id": len(forge.comments) + 1, **body})
        else:
            next(one for one in forge.comments if one["id"] == int(path.rpartition("/")[2])).update(body)
        data = json.dumps(found).encode()
        self.send_response(forge.status or 200)
        if forge.status == 302:
            self.send_header("Location", f"{forge.url}/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_PUT = answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def forge() -> Iterator[Forge]:
    server = Forge()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def github(forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forge:
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    for name, value in {
        "GITHUB_API_URL": f"{forge.url}/api/v3", "GITHUB_REPOSITORY": "ops/tree", "GITHUB_EVENT_PATH": str(event),
        "GITHUB_TOKEN": TOKEN,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GITLAB_CI", raising=False)
    return forge


def comment(monkeypatch: pytest.MonkeyPatch, text: str, *words: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(["ci-comment", *words])


def test_a_comment_is_written_once_and_then_updated(github: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    assert comment(monkeypatch, "first\n") == 0
    assert comment(monkeypatch, "second\n") == 0
    assert comment(monkeypatch, "of another tree\n", "--name", "eu") == 0

    assert [one["body"] for one in github.comments[1:]] == [
        "<!-- relayd -->\nsecond\n", "<!-- relayd: eu -->\nof another tree\n",
    ]  # fmt: skip
    assert ("PATCH", "/api/v3/repos/ops/tree/issues/comments/2") in github.asked
    assert github.tokens == {f"token {TOKEN}"}


@pytest.mark.parametrize("pages", [True, False])
def test_it_is_found_behind_many_others(github: Forge, monkeypatch: pytest.MonkeyPatch, pages: bool) -> None:
    """Gitea gives all comments on each page."""
    github.pages = pages
    github.comments += [{"id": at, "body": "x"} for at in range(2, 250)]
    comment(monkeypatch, "one\n")
    comment(monkeypatch, "two\n")

    assert [one["body"] for one in github.comments if "relayd -->\n" in one["body"]] == ["<!-- relayd -->\ntwo\n"]


def test_gitlab_has_notes(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GITLAB_CI": "true", "CI_API_V4_URL": f"{forge.url}/api/v4", "CI_PROJECT_ID": "42", "CI_MERGE_REQUEST_IID": "3",
        "RELAYD_CI_TOKEN": TOKEN,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    comment(monkeypatch, "one\n")
    comment(monkeypatch, "two\n")

    notes = "/api/v4/projects/42/merge_requests/3/notes"
    assert [one for one in forge.asked if one[0] != "GET"] == [("POST", notes), ("PUT", f"{notes}/2")]
    assert forge.tokens == {f"private {TOKEN}"}


def test_where_it_may_not_be_written_the_job_goes_on(
    github: Forge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    github.status = 403
    assert comment(monkeypatch, "x\n") == 0
    assert "note: no comment was written: 403, this job's token may not" in capsys.readouterr().err
    github.status = 500
    assert comment(monkeypatch, "x\n") == 1
    assert TOKEN not in capsys.readouterr().err


def test_a_redirect_takes_the_token_nowhere(github: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    github.status = 302
    assert comment(monkeypatch, "x\n") == 1
    assert {path for _, path in github.asked} == {"/api/v3/repos/ops/tree/issues/7/comments"}


def test_outside_of_a_request_and_without_a_token_it_says_so(
    github: Forge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    assert comment(monkeypatch, "x") == 1
    assert "GITHUB_TOKEN is not set" in capsys.readouterr().err
    monkeypatch.setenv("GITHUB_EVENT_PATH", "/nowhere")
    assert comment(monkeypatch, "x") == 1
    assert "this job runs for no pull or merge request" in capsys.readouterr().err


def test_what_is_too_long_is_cut_at_a_line() -> None:
    body = body_of("```\n" + "a line\n" * 20_000, "")

    assert len(body) < LONGEST + 200
    assert body.endswith("a line\n```\n\nThe rest is in the job's log.\n")
