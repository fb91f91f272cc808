"""Who may ask the admin listener."""

from __future__ import annotations

import hashlib

import pytest
from builders import headers

from relayd.config.snapshot import Admin, AdminToken
from relayd.core.access.admin_tokens import authorise, may_scrape
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

TOKENS = {"prometheus": "rladm_" + "v" * 43, "deployer": "rladm_" + "e" * 43}
ADMIN = Admin(
    tokens=(
        AdminToken(name="prometheus", sha256=hashlib.sha256(TOKENS["prometheus"].encode()).hexdigest()),
        AdminToken(
            name="deployer", sha256=hashlib.sha256(TOKENS["deployer"].encode()).hexdigest().upper(), role="editor"
        ),
    )
)


def bearing(name: str) -> Headers:
    return headers(authorization=f"Bearer {TOKENS[name]}")


def refusal(given: Headers, need: str = "viewer") -> Refusal:
    with pytest.raises(Refusal) as caught:
        authorise(given, ADMIN, need)
    return caught.value


def test_a_token_is_known_by_its_hash_and_may_do_what_its_role_says() -> None:
    assert authorise(bearing("prometheus"), ADMIN, "viewer").name == "prometheus"
    assert authorise(bearing("deployer"), ADMIN, "editor").name == "deployer"
    assert authorise(bearing("deployer"), ADMIN, "viewer").name == "deployer"


def test_a_viewer_may_not_act() -> None:
    no = refusal(bearing("prometheus"), "editor")

    assert no.status == 403
    assert "prometheus is a viewer's" in no.message


@pytest.mark.parametrize(
    "given",
    [
        headers(),
        headers(authorization="Bearer "),
        headers(authorization="Bearer wrong"),
        headers(authorization=f"Basic {TOKENS['deployer']}"),
        headers(x_api_key=TOKENS["deployer"]),
        headers(authorization=f"Bearer {ADMIN.tokens[0].sha256}"),
    ],
)
def test_nothing_else_is_a_token(given: Headers) -> None:
    no = refusal(given)

    assert (no.status, no.headers[0][0]) == (401, b"www-authenticate")
    assert not any(token in no.message for token in TOKENS.values())


def test_without_tokens_in_the_tree_nobody_may_ask() -> None:
    with pytest.raises(Refusal, match="401"):
        authorise(bearing("deployer"), Admin(), "viewer")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.0.1", "::1", ""])
def test_metrics_are_for_this_machine(address: str) -> None:
    may_scrape(headers(), ADMIN, address)


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "nonsense"])
def test_metrics_from_elsewhere_need_a_token(address: str) -> None:
    may_scrape(bearing("prometheus"), ADMIN, address)
    with pytest.raises(Refusal, match="401"):
        may_scrape(headers(), ADMIN, address)


@pytest.mark.parametrize("host", ["127.0.0.1:3001", "[::1]:3001", "localhost", "LOCALHOST:3001", "192.0.2.7:80"])
def test_metrics_are_had_without_a_token_under_a_name_that_no_name_server_gives(host: str) -> None:
    may_scrape(headers(host=host), ADMIN, "127.0.0.1")


@pytest.mark.parametrize(
    "host", ["evil.example:3001", "127.0.0.1.evil.example", "localhost.evil.example", "", "a@[::1]"]
)
def test_a_page_that_rebinds_its_name_to_this_machine_reads_no_metrics(host: str) -> None:
    with pytest.raises(Refusal, match="403"):
        may_scrape(headers(host=host), ADMIN, "127.0.0.1")
    may_scrape(headers(host=host), ADMIN, "")  # a browser opens no unix socket
    may_scrape(Headers([*bearing("prometheus"), (b"host", host.encode())]), ADMIN, "127.0.0.1")


def test_a_wrong_token_is_wrong_from_this_machine_too() -> None:
    with pytest.raises(Refusal, match="unknown token"):
        may_scrape(headers(authorization="Bearer wrong"), ADMIN, "127.0.0.1")
