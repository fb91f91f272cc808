"""`relayd ci-comment`: text from stdin as one comment on the pull or merge request that CI runs for.

Rule: one comment a tree, which is updated and never repeated: it is found by a mark in its first line. A place where it
may not be written is said, and is no failure of the change. The token goes to the API that CI names and nowhere else:
no redirect is followed.

Source: GitHub REST API, "Issue comments" (Gitea's and Forgejo's are the same); GitLab REST API, "Notes".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import attrs

from relayd.cli.output import say
from relayd.cli.tree import Stop, guarded
from relayd.noun import noun

LONGEST = 60_000  # characters; GitHub takes 65,536
PAGES, PAGE = 20, 100
PATIENCE = 30.0  # s


@noun(kw_only=True)
class CommentApi:
    """Where comments are written.

    Args:
        list_url: of the comments of the request; `one_url` of one of them, without its id.
        change: the method that changes one.
    """

    list_url: str
    one_url: str
    change: str
    header: tuple[str, str] = attrs.field(repr=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", metavar="NAME", default="", help="tells the comments of several trees in one repository apart"
    )
    parser.epilog = (
        "It needs GITHUB_TOKEN at GitHub, Gitea and Forgejo, and RELAYD_CI_TOKEN at GitLab. Exit status: 0 written, or "
        "not allowed to; 1 otherwise"
    )


def main(args: argparse.Namespace) -> int:
    return guarded("ci-comment", comment, args)


def comment(args: argparse.Namespace) -> int:
    """Write or update the comment. Raises: Stop."""
    api = api_of(os.environ)
    text = body_of(sys.stdin.read(), args.name)
    try:
        known = _find(api, text.partition("\n")[0])
        if known is None:
            _ask(api, "POST", api.list_url, {"body": text})
        else:
            _ask(api, api.change, f"{api.one_url}/{known}", {"body": text})
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            say(f"note: no comment was written: {error.code}, this job's token may not (a fork's never may)")
            return 0
        raise Stop(f"no comment was written: the API answered {error.code}") from None
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Stop(f"no comment was written: {reason}") from None
    return 0


def body_of(text: str, name: str) -> str:
    """The comment, with its mark; what is too long is cut."""
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition("\n")[0] + "\n```\n\nThe rest is in the job's log.\n"
    return f"<!-- relayd{f': {name}' if name else ''} -->\n{text}"


def api_of(env: Mapping[str, str]) -> CommentApi:
    """What CI says of itself. Raises: Stop when there is no request to comment on, or no token."""
    if env.get("GITLAB_CI"):
        base, project, number = (
            env.get("CI_API_V4_URL", ""),
            env.get("CI_PROJECT_ID", ""),
            env.get("CI_MERGE_REQUEST_IID"),
        )
        notes = f"{base}/projects/{project}/merge_requests/{number}/notes"
        token = _token(env, "RELAYD_CI_TOKEN")
        _require(number)
        return CommentApi(list_url=notes, one_url=notes, change="PUT", header=("PRIVATE-TOKEN", token))
    number = _number_of_event(env.get("GITHUB_EVENT_PATH", ""))
    _require(number)
    issues = f"{env.get('GITHUB_API_URL', '')}/repos/{quote(env.get('GITHUB_REPOSITORY', ''))}/issues"
    return CommentApi(
        list_url=f"{issues}/{number}/comments",
        one_url=f"{issues}/comments",
        change="PATCH",
        header=("Authorization", f"token {_token(env, 'GITHUB_TOKEN')}"),
    )


def _require(number: str | None) -> None:
    if not number:
        raise Stop("this job runs for no pull or merge request (it is for CI of GitHub, GitLab, Gitea and Forgejo)")


def _token(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise Stop(f"{name} is not set: it is the token that may write the comment")
    return env[name]


def _number_of_event(path: str) -> str:
    """The number of the pull request that an event is about; "" for none."""
    try:
        with open(path, encoding="utf-8") as file:
            event = json.load(file)
    except (OSError, ValueError):
        return ""
    request = event.get("pull_request") if isinstance(event, dict) else None
    number = request.get("number") if isinstance(request, dict) else None
    return str(number) if isinstance(number, int) else ""


def _find(api: CommentApi, mark: str) -> int | None:
    """The id of the comment with this mark."""
    seen: set[int] = set()
    for page in range(1, PAGES + 1):
        found = _ask(api, "GET", f"{api.list_url}?per_page={PAGE}&page={page}")
        rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
        for row in rows:
            if str(row.get("body", "")).startswith(mark):
                return int(row["id"])
        ids = {int(row["id"]) for row in rows}
        if len(rows) < PAGE or ids <= seen:  # Gitea gives all of them on every page
            return None
        seen |= ids
    return None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _ask(api: CommentApi, method: str, url: str, body: dict[str, str] | None = None) -> Any:
    """Raises: HTTPError, URLError, TimeoutError; ValueError for what is no JSON or no URL."""
    if not url.startswith(("https://", "http://")):
        raise ValueError("CI does not say where its API is")
    headers = {"Accept": "application/json", "User-Agent": "relayd", api.header[0]: api.header[1]}
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=PATIENCE) as answer:
        return json.load(answer)
