"""Code grant: a sign-in with OAuth, by authorization code with PKCE; for the command line and for the admin pages.

Rule: endpoints and client id come from [oauth] of relay.toml: the operator's own registration. The verifier and the
state never leave this process but to the token endpoint; the tokens leave it only as a sealed value.

Theory: the browser is sent to the authorize URL with a hash of the verifier (RFC 7636) and a random state (RFC 6749
section 10.12). The answer comes by a redirect, or the person pastes what the page shows: the code, `code#state`, or the
whole address. Sync: the pages exchange a code in a worker thread.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from relayd.config.secrets.binding import origin_of
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import OAuth
from relayd.noun import noun

LONGEST = 65536  # bytes of the token endpoint's answer; a real one has about 1,000
PATIENCE = 30.0  # s for the token endpoint


class LoginError(Exception):
    """Signing in failed; the text says why, without any code or token."""


@noun(kw_only=True)
class SignIn:
    """One sign-in under way."""

    authorize_url: str
    redirect_uri: str
    verifier: Secret
    state: Secret


def begin(oauth: OAuth, redirect_uri: str, rng: Callable[[int], bytes]) -> SignIn:
    """The address to send the person to, and what must be remembered until the answer comes."""
    verifier, state = _b64(rng(32)), _b64(rng(32))
    query = {
        "code": "true",  # the provider's page shows the code to be pasted when there is no loopback redirect
        "response_type": "code",
        "client_id": oauth.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(oauth.scopes),
        "code_challenge": _b64(hashlib.sha256(verifier.encode()).digest()),
        "code_challenge_method": "S256",
        "state": state,
    }
    joint = "&" if "?" in oauth.authorize_url else "?"
    return SignIn(
        authorize_url=f"{oauth.authorize_url}{joint}{urlencode(query)}",
        redirect_uri=redirect_uri,
        verifier=Secret(verifier),
        state=Secret(state),
    )


def read_answer(text: str, ask: SignIn, *, pasted: bool = False) -> Secret:
    """The code in a redirect's query, a whole address, `code#state` or, when `pasted`, the code alone.

    Raises: LoginError when it is an error, has no code, or belongs to another sign-in.
    """
    text = text.strip()
    if "://" in text or text.startswith(("?", "/")):
        query = parse_qs(urlsplit(text).query)
        if "error" in query:
            raise LoginError(f"the provider refused: {_shown(query['error'][0])}")
        code, state = query.get("code", [""])[0], query.get("state", [""])[0]
    else:
        code, _, state = text.partition("#")
        state = state or (ask.state.reveal() if pasted else "")
    if not code:
        raise LoginError("there is no code in the answer")
    if not hmac.compare_digest(state.encode(), ask.state.reveal().encode()):
        raise LoginError("the answer belongs to another sign-in (its state differs; start again)")
    return Secret(code.partition("#")[0])


def exchange(oauth: OAuth, ask: SignIn, code: Secret, now: Callable[[], float]) -> Secret:
    """Tokens for the code: the JSON that an account of kind oauth seals. `now`: Unix time, s. Raises: LoginError."""
    tokens = _post(
        oauth.token_url,
        {
            "grant_type": "authorization_code",
            "client_id": oauth.client_id,
            "code": code.reveal(),
            "redirect_uri": ask.redirect_uri,
            "code_verifier": ask.verifier.reveal(),
            "state": ask.state.reveal(),
        },
    )
    if not isinstance(tokens.get("access_token"), str):
        raise LoginError("the token endpoint's answer has no access_token")
    kept: dict[str, Any] = {"access_token": tokens["access_token"]}
    if isinstance(tokens.get("refresh_token"), str):
        kept["refresh_token"] = tokens["refresh_token"]
    if isinstance(tokens.get("expires_in"), int):
        kept["expires_at"] = int(now()) + tokens["expires_in"]
    return Secret(json.dumps(kept, separators=(",", ":")))


def is_loopback(redirect_uri: str) -> bool:
    """Whether the answer can come to a socket of ours."""
    parts = urlsplit(redirect_uri)
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")


def _post(url: str, fields: dict[str, str]) -> dict[str, Any]:
    """POST JSON, without redirects, proxies or environment. Raises: LoginError."""
    from relayd.daemon.net.tls import (
        shared_context,  # the one trust policy; loaded only when there is something to send
    )

    origin_of(url)  # https, or http to this machine
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=PATIENCE, context=shared_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=PATIENCE)
    )
    try:
        connection.request("POST", parts.path or "/", json.dumps(fields), {"content-type": "application/json"})
        answer = connection.getresponse()
        status, raw = answer.status, answer.read(LONGEST)
    except (OSError, http.client.HTTPException) as error:
        raise LoginError(f"the token endpoint {host} cannot be reached: {type(error).__name__}") from None
    finally:
        connection.close()
    try:
        found = json.loads(raw)
    except ValueError:
        found = {}
    if status != 200:
        error_code = found.get("error") if isinstance(found, dict) else None
        what = error_code.get("type") if isinstance(error_code, dict) else error_code
        raise LoginError(f"the token endpoint answered {status}" + (f": {_shown(str(what))}" if what else ""))
    return found if isinstance(found, dict) else {}


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _shown(text: str) -> str:
    return "".join(char for char in text[:100] if char.isalnum() or char in "_-. ")
