"""OAuth decisions: when to refresh tokens, what an answer means, and which of two tokens is the newer one.

Rule: no clock, no I/O; `now` (Unix time, s, on the state store's clock) and `rng` are arguments. Nothing that is said
here quotes a token or an answer.

Theory: git holds a *seed*, the tokens that a person signed in with. Each refresh may end the life of the refresh token
that was used (rotation), and using one twice may end the whole family (RFC 9700 section 4.14.2). So what a refresh
brought is kept in the state store, sealed, as a *note* under the seed's fingerprint: another seed in git has another
fingerprint, and its own notes. Tokens count their generation: the seed is 0, and every refresh adds one. A note is
authenticated with the seed: sealing needs public keys only, and whoever can write to the store must not be able to
put tokens of an account of theirs in place of ours.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import random
from typing import Any

import attrs

from relayd.config.secrets.binding import Binding, credential_binding
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Relay
from relayd.noun import noun

SHARE = 0.8  # of a token's life after which it is refreshed, so that a provider may be away for the rest
JITTER = 0.05  # share of the life by which nodes differ, so that they do not all ask for the lock at one instant
MARGIN = (
    120.0  # s before expiry by which a token is refreshed at the latest; the official SDK's own cache does the same
)
FIRST_RETRY, LONGEST_RETRY = 5.0, 300.0  # s between tries after a failure, doubling
LONGEST_ASKED = 3_600.0  # s of a retry-after that are honoured
UNUSED = (
    7 * 86400.0
)  # s after which a note that belongs to no seed of the tree is erased: a rollback may come back to it
_LONGEST_LIFE = 10 * 366 * 86400.0  # s; a token endpoint that says more means "for ever"
_MS = 1e11  # an expires_at beyond this is in milliseconds, as Claude Code writes it (1e11 s is the year 5138)

# The error codes of a token endpoint (RFC 6749 section 5.2), and the error types that the Claude API may use in their
# place. Only these words are repeated; whatever else an answer says stays unsaid.
_SPENT = frozenset({"invalid_grant"})
_WORDS = _SPENT | {
    "invalid_request",
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "overloaded_error",
    "api_error",
}


_NOTHING = Secret("")


@noun(kw_only=True)
class Tokens:
    """What an OAuth account presents, and how it gets the next.

    Args:
        refresh: empty when there is none: then the access token is all there is.
        expires_at: Unix time, s; None when nobody said.
        generation: refreshes since the seed.
    """

    access: Secret
    refresh: Secret = _NOTHING
    expires_at: float | None = None
    generation: int = 0

    def expired(self, now: float) -> bool:
        """Whether the access token's time is over, as far as that is known."""
        return self.expires_at is not None and self.expires_at <= now


@noun(kw_only=True)
class RefreshFailed:
    """No tokens came.

    Args:
        reason: for the log and for `status`; never the answer's own text, but for the words of RFC 6749.
        spent: the refresh token is no longer accepted: only a person can help.
        unknown: whether the provider has done what was asked: it may have rotated, and the answer was lost.
        retry_after: s that the provider asked for.
    """

    reason: str
    spent: bool = False
    unknown: bool = False
    retry_after: float = 0.0


@noun(kw_only=True)
class StoredTokens:
    """What the state store knows of a seed's tokens.

    Args:
        sealed: the run-time tokens; "" while the seed's own are the newest.
        asking: who is about to use the refresh token, written before the request; "" when nobody is. One that stays
            behind tells of a node that died between asking and storing.
        at: when it was written, Unix time, s.
    """

    sealed: str = attrs.field(default="", repr=False)
    asking: str = ""
    at: float = 0.0


def parse_tokens(text: Secret) -> Tokens:
    """The tokens of an opened credential: JSON, or an access token alone. Raises: ValueError; it quotes nothing."""
    raw = text.reveal()
    if not raw.startswith("{"):
        return Tokens(access=presentable(raw))
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("the OAuth credential starts like JSON but is not JSON (seal it again)") from None
    access, refresh = found.get("access_token"), found.get("refresh_token") or ""
    if not isinstance(access, str) or not isinstance(refresh, str):
        raise ValueError("the OAuth credential is not JSON with an access_token (seal it again)")
    generation = found.get("generation", 0)
    return Tokens(
        access=presentable(access),
        refresh=Secret(refresh),
        expires_at=_moment(found.get("expires_at")),
        generation=generation if isinstance(generation, int) else 0,
    )


def write_tokens(tokens: Tokens) -> Secret:
    """Tokens as `parse_tokens` reads them."""
    return Secret(
        json.dumps(
            {
                "access_token": tokens.access.reveal(),
                "refresh_token": tokens.refresh.reveal(),
                "expires_at": tokens.expires_at,
                "generation": tokens.generation,
            },
            separators=(",", ":"),
        )
    )


def presentable(text: str) -> Secret:
    """A text that a header can carry. Raises: ValueError; it does not quote the text."""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("the credential is empty or has characters that no header may carry")
    return Secret(text)


def _moment(value: Any) -> float | None:
    """Unix time in s or ms."""
    number = _number(value)
    return number / 1000 if number is not None and number > _MS else number


def _number(value: Any) -> float | None:
    """A number above 0, or None: JSON as Python reads it may also hold true, NaN and Infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _MS * 1000:
        return None
    return float(value)


def due_at(tokens: Tokens, since: float, rng: random.Random) -> float | None:
    """When to refresh; None: not by the clock, because there is nothing to refresh with or no known end.

    Args:
        since: when the tokens came into our hands; their life is counted from there.

    A token that lives only minutes is used for at least half of its life, or relayd would do nothing but refresh.
    """
    if tokens.expires_at is None or not tokens.refresh:
        return None
    life = max(0.0, tokens.expires_at - since)
    early = since + life * (SHARE + JITTER * (2 * rng.random() - 1))
    return max(min(early, tokens.expires_at - MARGIN), since + life / 2)


def waited_until(tokens: Tokens, asked: float) -> float:
    """Until when the answer that a silent node has asked for is waited for, Unix time, s.

    Half of what these had left then: it may only be cut off, and whoever uses the refresh token a second time ends the
    whole family. The other half is for a person to sign in again, should it be dead.

    Args:
        asked: when it wrote down that it was about to use the refresh token.
    """
    return asked if tokens.expires_at is None else asked + max(0.0, tokens.expires_at - asked) / 2


def newer(one: Tokens, other: Tokens) -> bool:
    """Whether `one` should be used in place of `other`. Of two refreshes of the same tokens (two nodes that could not
    see each other), the one that lives longer came last."""
    if one.generation != other.generation:
        return one.generation > other.generation
    return one.access != other.access and (one.expires_at or 0.0) > (other.expires_at or 0.0)


def retry_in(failures: int, asked: float, rng: random.Random, *, longest: float = LONGEST_RETRY) -> float:
    """s until the next try, after so many failures in a row (from 1); at least what the other side asked for."""
    wait = min(longest, FIRST_RETRY * 2.0 ** min(failures - 1, 16))
    return max(wait * (1 - 0.2 * rng.random()), min(asked, LONGEST_ASKED))


# --- the answer of a token endpoint -----------------------------------------------------------------------------------


def request_body(refresh: Secret, client_id: str) -> bytes:
    """The body of a refresh (RFC 6749 section 6, as JSON: that is what the Claude token endpoint takes)."""
    fields = {"grant_type": "refresh_token", "refresh_token": refresh.reveal(), "client_id": client_id}
    return json.dumps(fields, separators=(",", ":")).encode()


def read_answer(status: int, body: bytes, old: Tokens, now: float, retry_after: float = 0.0) -> Tokens | RefreshFailed:
    """What a token endpoint's answer means. One that keeps the refresh token leaves it out (RFC 6749 section 6)."""
    found = _table(body)
    if status != 200:
        return _refusal(status, found, retry_after)
    try:
        access = presentable(_text(found, "access_token"))
    except ValueError:
        return RefreshFailed(reason="the token endpoint answered 200 without a usable access_token", unknown=True)
    refresh = _text(found, "refresh_token")
    seconds = _number(found.get("expires_in"))
    return Tokens(
        access=access,
        refresh=Secret(refresh) if refresh else old.refresh,
        expires_at=None if seconds is None else now + min(seconds, _LONGEST_LIFE),
        generation=old.generation + 1,
    )


def _refusal(status: int, found: dict[str, Any], retry_after: float) -> RefreshFailed:
    error = found.get("error")
    word = _text(error, "type") if isinstance(error, dict) else error
    said = f" {word}" if isinstance(word, str) and word in _WORDS else ""
    if 300 <= status < 400:
        return RefreshFailed(reason=f"the token endpoint answered {status}, a redirect, which is not followed")
    return RefreshFailed(
        reason=f"the token endpoint answered {status}{said}",
        spent=status < 500 and word in _SPENT,
        unknown=status >= 500,
        retry_after=retry_after,
    )


def _table(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(table: dict[str, Any], name: str) -> str:
    value = table.get(name)
    return value if isinstance(value, str) else ""


# --- seeds and notes --------------------------------------------------------------------------------------------------


def fingerprint(realm: str, account: str, seed: Secret) -> str:
    """The name of a seed, the same on every node. A seed is random, so its hash tells nothing about it."""
    text = json.dumps([realm, account, seed.reveal()]).encode()
    return hmac.digest(b"relayd/v1 oauth seed", text, "sha256")[:12].hex()


def note_name(realm: str, account: str, seed: Secret) -> str:
    """Under which name the notes of a seed are published; the account comes before the first "/"."""
    return f"{account}/{fingerprint(realm, account, seed)}"


def runtime_binding(account: Account, relay: Relay) -> Binding:
    """What run-time tokens are sealed for: the place of the seed, with a field of its own. Raises: SealError."""
    return attrs.evolve(credential_binding(account, relay), field="credential.runtime")


def write_note(note: StoredTokens, name: str, seed: Secret) -> str:
    """A note as it is published; `read_note` is the inverse."""
    plain = attrs.asdict(note)
    return json.dumps({**plain, "mac": _mac(note, name, seed)}, separators=(",", ":"))


def read_note(body: str, name: str, seed: Secret) -> StoredTokens | None:
    """A published note; None when it was not written by one who has the seed, or is damaged. "" is an empty one."""
    if not body:
        return StoredTokens()
    found = _table(body.encode("utf-8", "surrogatepass"))
    note = StoredTokens(
        sealed=_text(found, "sealed"), asking=_text(found, "asking"), at=_number(found.get("at")) or 0.0
    )
    mac = _text(found, "mac").encode("utf-8", "surrogatepass")
    return note if hmac.compare_digest(mac, _mac(note, name, seed).encode()) else None


def written_at(body: str) -> float:
    """When a note of whatever seed was written, unproved; 0.0 for one that is empty or damaged."""
    return _number(_table(body.encode("utf-8", "surrogatepass")).get("at")) or 0.0


def _mac(note: StoredTokens, name: str, seed: Secret) -> str:
    text = json.dumps(["relayd/v1 run-time tokens", name, note.sealed, note.asking, note.at]).encode()
    return hmac.new(seed.reveal().encode("utf-8", "surrogatepass"), text, hashlib.sha256).hexdigest()


def utc(moment: float) -> str:
    """Unix time for people, in UTC."""
    return datetime.datetime.fromtimestamp(int(moment), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
