"""An attempt carries the client's request unchanged and the account's identity instead of the client's key."""

from __future__ import annotations

import pytest
from builders import account, api_key, call, headers, snapshot

from relayd.config.secrets.secret import Secret
from relayd.core.access.permissions import resolve
from relayd.core.outbound import answer_headers, prepare
from relayd.wire.http import Headers, client_headers

BASE = "https://api.anthropic.com"
CLIENT = headers(
    host="relay.example",
    user_agent="claude-cli/2.1.330 (external, cli)",
    anthropic_beta="a,b",
    x_unknown_header="kept",
    traceparent="00-1-1-01",
    x_stainless_lang="js",
)


def outbound(one, given=CLIENT, asked=None, secret="sk-ant-1", relay=None):
    asked = asked or call()
    plan = resolve(asked, api_key(), snapshot(relay=relay or {}))
    return prepare(plan, one, BASE, Secret(secret), client_headers(given))


def test_end_to_end_headers_pass_and_the_clients_key_does_not() -> None:
    given = Headers(
        [
            *CLIENT.pairs,
            (b"x-api-key", b"sk-relay-secret"),
            (b"authorization", b"Bearer sk-relay-secret"),
            (b"cookie", b"a=b"),
            (b"x-forwarded-for", b"10.0.0.1"),
            (b"accept-encoding", b"gzip, br"),
            (b"connection", b"keep-alive, x-private"),
            (b"x-private", b"1"),
            (b"transfer-encoding", b"chunked"),
            (b"content-length", b"5"),
        ]
    )
    sent = dict(outbound(account(kind="api-key"), given).headers)

    assert sent == {
        b"user-agent": b"claude-cli/2.1.330 (external, cli)",
        b"anthropic-beta": b"a,b",
        b"x-unknown-header": b"kept",
        b"traceparent": b"00-1-1-01",
        b"x-stainless-lang": b"js",
        b"accept-encoding": b"identity",
        b"x-api-key": b"sk-ant-1",
    }


def test_connection_cannot_nominate_our_own_headers_away() -> None:
    given = Headers([*CLIENT.pairs, (b"connection", b"x-api-key, accept-encoding, anthropic-beta")])
    sent = dict(outbound(account(kind="api-key"), given).headers)

    assert sent[b"x-api-key"] == b"sk-ant-1"
    assert sent[b"accept-encoding"] == b"identity"
    assert b"anthropic-beta" not in sent


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("api-key", b"x-api-key", b"s3cret"),
        ("oauth", b"authorization", b"Bearer s3cret"),
        ("session-key", b"cookie", b"sessionKey=s3cret"),
    ],
)
def test_each_kind_presents_its_credential_in_its_own_way(kind: str, name: bytes, value: bytes) -> None:
    sent = outbound(account(kind=kind), secret="s3cret")

    assert dict(sent.headers)[name] == value
    assert "s3cret" not in repr(sent)


@pytest.mark.parametrize(
    ("betas", "expected"),
    [
        ([], [b"oauth-2025-04-20"]),
        ([b"a,b"], [b"a,b,oauth-2025-04-20"]),
        ([b"a", b"b"], [b"a", b"b,oauth-2025-04-20"]),
        ([b"a, oauth-2025-04-20"], [b"a, oauth-2025-04-20"]),
        ([b"my-oauth-2025-04-20x"], [b"my-oauth-2025-04-20x,oauth-2025-04-20"]),
    ],
)
def test_oauth_adds_its_one_beta_once(betas: list[bytes], expected: list[bytes]) -> None:
    given = Headers([(b"anthropic-beta", beta) for beta in betas])
    sent = outbound(account(kind="oauth"), given)

    assert [value for name, value in sent.headers if name == b"anthropic-beta"] == expected


def test_no_other_kind_adds_a_beta() -> None:
    assert b"anthropic-beta" not in dict(outbound(account(kind="api-key"), Headers([])).headers)


def test_only_the_models_value_changes_when_an_alias_renames_it() -> None:
    body = b'{ "stream":true,\n "model" : "fast", "x":"\xe2\x82\xac" }'
    sent = outbound(account(), asked=call("fast", body=body), relay={"models": {"fast": "claude-haiku-4-5"}})

    assert sent.body == body.replace(b'"fast"', b'"claude-haiku-4-5"')
    assert sent.sent_model == "claude-haiku-4-5"


def test_an_accounts_model_map_comes_after_the_alias() -> None:
    one = account(model_map={"claude-haiku-4-5": "vendor/haiku"})
    sent = outbound(one, asked=call("fast", body=b'{"model":"fast"}'), relay={"models": {"fast": "claude-haiku-4-5"}})

    assert sent.body == b'{"model":"vendor/haiku"}'


def test_the_body_is_the_same_object_when_nothing_is_renamed() -> None:
    asked = call()

    assert outbound(account(), asked=asked).body is asked.body


def test_constant_headers_replace_the_clients() -> None:
    sent = outbound(account(headers={"X-Unknown-Header": "ours", "x-extra": "1"}))

    assert [value for name, value in sent.headers if name == b"x-unknown-header"] == [b"ours"]
    assert dict(sent.headers)[b"x-extra"] == b"1"


def test_the_query_travels_with_the_path() -> None:
    assert outbound(account(), asked=call(query="beta=true")).target == "/v1/messages?beta=true"


def test_answers_lose_what_describes_the_operators_account() -> None:
    answer = headers(
        content_type="application/json",
        request_id="req_1",
        retry_after="3",
        set_cookie="a=b",
        anthropic_organization_id="org",
        anthropic_ratelimit_requests_remaining="5",
        anthropic_ratelimit_unified_status="allowed",
        anthropic_priority_input_tokens_limit="1",
        x_new_header="kept",
        transfer_encoding="chunked",
    )

    expected = [
        (b"content-type", b"application/json"),
        (b"request-id", b"req_1"),
        (b"retry-after", b"3"),
        (b"x-new-header", b"kept"),
    ]
    assert answer_headers(answer) == expected


@pytest.mark.parametrize(
    "name",
    [
        "x-forwarded-for", "x-forwarded-client-cert", "x-forwarded-user", "x-real-ip", "x-client-ip", "remote-user",
        "cf-connecting-ip", "cf-access-jwt-assertion", "x-auth-request-email", "x-amzn-oidc-data", "relayd-request-id",
        "x-envoy-external-address",
    ],
)  # fmt: skip
def test_what_fronts_say_of_the_client_stays_here(name: str) -> None:
    given = Headers([*CLIENT.pairs, (name.encode(), b"someone")])
    assert client_headers(given) == client_headers(CLIENT)


def test_the_clients_key_stays_here_in_whatever_header_it_stands() -> None:
    given = Headers([*CLIENT.pairs, (b"api-key", b"sk-relay-secret"), (b"x-mine", b"Key sk-relay-secret;")])
    assert client_headers(given) == client_headers(CLIENT)


@pytest.mark.parametrize("presented", [(b"x-api-key", b"%b"), (b"authorization", b"Bearer %b")])
def test_a_key_of_the_relay_before_stays_here_too(presented: tuple[bytes, bytes]) -> None:
    name, form = presented
    old = b"cr_" + b"5e" * 32
    given = Headers([*CLIENT.pairs, (b"x-mine", b"Key %b;" % old)])
    assert len(client_headers(given)) == len(client_headers(CLIENT)) + 1
    asked = [pair for pair in given.pairs if pair[0] not in (b"x-api-key", b"authorization")]
    assert client_headers(Headers([*asked, (name, form % old)])) == client_headers(CLIENT)


@pytest.mark.parametrize(
    "name",
    [
        "set-cookie", "x-api-key", "authorization", "cookie", "www-authenticate", "via", "alt-svc",
        "access-control-allow-origin", "access-control-allow-credentials", "strict-transport-security",
        "clear-site-data", "refresh", "anthropic-organization-id", "anthropic-ratelimit-requests-limit",
        "relayd-request-id",
    ],
)  # fmt: skip
def test_what_an_upstream_says_of_itself_or_echoes_stays_here(name: str) -> None:
    kept = [(b"request-id", b"req_1"), (b"retry-after", b"3"), (b"x-unknown", b"kept")]
    assert answer_headers(Headers([*kept, (name.encode(), b"value")])) == kept
