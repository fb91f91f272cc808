"""Alert events: everything that an operator may be told of, each defined once, for the log and for notices.

Rule: frozen data. The name is the log's event and the word that `[alerts.NAME] events` selects by; the fields are those
of the log line; `text` is the sentence of a notice. No event holds a secret, a prompt or a word of a client's.

Theory: an event begins a condition, ends one, or happens once. A condition is known by what is wrong, not by who says
so: several nodes that see the same begin it once (`book.py`). What happens once is not told again for a while.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

import attrs

from relayd.noun import noun

EventSeverity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[EventSeverity, ...] = ("info", "warning", "critical")
EventTurn = Literal["begins", "ends", "once"]

HOUR, DAY = 3600.0, 86_400.0
BRIEF = 60.0  # s; the same as in core/ailments: a shorter rest is the pool at work


def _hidden(default: Any = attrs.NOTHING) -> Any:
    """A field that is not of the log line."""
    return attrs.field(default=default, metadata={"hidden": True})


@noun(kw_only=True)
class AlertEvent:
    """One event.

    Args:
        name: of the event, here and in the log.
        about: its condition, written with its fields.
        turn: what it does to its condition.
        lasting: the node that told of it goes on telling; when it falls silent, the condition ends for it. Else
            somebody has to end it.
        everywhere: it ends the condition whoever told of it, for the nodes share what it is about.
        logger: of the log line.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    severity: ClassVar[EventSeverity] = "warning"
    turn: ClassVar[EventTurn] = "begins"
    lasting: ClassVar[bool] = False
    everywhere: ClassVar[bool] = False
    logger: ClassVar[str] = "relayd"

    @property
    def level(self) -> int:
        """Of the log line."""
        return logging.INFO if self.turn == "ends" else logging.WARNING

    @property
    def condition(self) -> str:
        """What it is about: the same for all events of one condition, or for all that are the same news."""
        return self.about.format(self=self)

    @property
    def slot(self) -> str:
        """Under which it is told to the other nodes: there are only so many, and the newest in one counts."""
        return self.condition

    @property
    def quiet(self) -> float:
        """s for which the same is not told again, of what happens once."""
        return 0.0

    @property
    def text(self) -> str:
        """One sentence for people."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """Of the log line; what is empty is left out."""
        found = {
            one.name: getattr(self, one.name) for one in attrs.fields(type(self)) if not one.metadata.get("hidden")
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value is not None
        }


# --- limits and keys


@noun(kw_only=True)
class LimitNear(AlertEvent):
    """A key has used 80 % of a limit.

    Args:
        owner: of the key; None for nobody.
        limit: as people call it.
        used, most: as people write it.
        resets: RFC 3339; None where it is not known, or never.
        window: names the window in which it was.
        again: s until it may be told again.
    """

    name: ClassVar = "limit.near"
    about: ClassVar = "{self.name}/{self.key}/{self.window}"
    turn: ClassVar[EventTurn] = "once"
    key: str
    owner: str | None = None
    limit: str
    used: str
    most: str
    resets: str | None = None
    window: str = _hidden("")
    again: float = _hidden(DAY)

    @property
    def slot(self) -> str:
        return f"{self.name}/{self.key}/{self.limit}"

    @property
    def quiet(self) -> float:
        return self.again

    @property
    def text(self) -> str:
        return f"{_key(self.key, self.owner)} has used {self.used} of {self.most}: {self.limit}{_resets(self.resets)}"


@noun(kw_only=True)
class LimitReached(LimitNear):
    """A key has used all of a limit, or was refused a call for it."""

    name: ClassVar = "limit.reached"

    @property
    def text(self) -> str:
        return f"{_key(self.key, self.owner)} is at its limit: {self.limit}{_resets(self.resets)}"


@noun(kw_only=True)
class KeyExpiring(AlertEvent):
    """A key will stop being accepted within a week, and within a day. `left`: for people."""

    name: ClassVar = "key.expiring"
    about: ClassVar = "{self.name}/{self.key}/{self.expires}/{self.left}"
    severity: ClassVar[EventSeverity] = "info"
    turn: ClassVar[EventTurn] = "once"
    key: str
    owner: str | None = None
    expires: str
    left: str

    @property
    def quiet(self) -> float:
        return 8 * DAY

    @property
    def text(self) -> str:
        return f"{_key(self.key, self.owner)} ends in less than {self.left}, at {self.expires}"


# --- accounts


@noun(kw_only=True)
class AccountOut(AlertEvent):
    """An account rests: its upstream said so, or failed too often.

    Args:
        until: RFC 3339.
        rest: s; one of less than a minute is in the log alone.
    """

    name: ClassVar = "account.out"
    about: ClassVar = "account/{self.account}"
    everywhere: ClassVar[bool] = True
    account: str
    reason: str
    until: str
    rest: float = _hidden(DAY)

    @property
    def brief(self) -> bool:
        """Whether nobody need know."""
        return self.rest < BRIEF and self.severity != "critical"

    @property
    def text(self) -> str:
        return f"account {self.account} is out until {self.until}: {self.reason}"


@noun(kw_only=True)
class AccountCredential(AccountOut):
    """An upstream has rejected an account's credential."""

    name: ClassVar = "account.credential"
    severity: ClassVar[EventSeverity] = "critical"

    @property
    def text(self) -> str:
        return f"account {self.account}: Invalid session key or expired: {self.reason} (until {self.until})"


@noun(kw_only=True)
class AccountRecovered(AlertEvent):
    """An account serves in full again."""

    name: ClassVar = "account.recovered"
    about: ClassVar = "account/{self.account}"
    turn: ClassVar[EventTurn] = "ends"
    everywhere: ClassVar[bool] = True
    account: str

    @property
    def text(self) -> str:
        return f"account {self.account} serves again"


@noun(kw_only=True)
class AccountUnusable(AlertEvent):
    """A node cannot use an account, though others may: its credential cannot be opened or read there."""

    name: ClassVar = "account.no_credential"
    about: ClassVar = "account-credential/{self.account}"
    lasting: ClassVar[bool] = True
    account: str
    why: str

    @property
    def text(self) -> str:
        return f"account {self.account} cannot be used on this node: {self.why}"


@noun(kw_only=True)
class AccountUsable(AlertEvent):
    """A node can use an account again."""

    name: ClassVar = "account.credential_found"
    about: ClassVar = "account-credential/{self.account}"
    turn: ClassVar[EventTurn] = "ends"
    account: str

    @property
    def text(self) -> str:
        return f"account {self.account} can be used on this node again"


@noun(kw_only=True)
class _OfTokens(AlertEvent):
    """Of an OAuth account's tokens."""

    about: ClassVar = "oauth/{self.account}"
    lasting: ClassVar[bool] = True
    logger: ClassVar[str] = "relayd.oauth"
    account: str


@noun(kw_only=True)
class OAuthRefreshFailed(_OfTokens):
    """No new access token could be had.

    Args:
        expires: RFC 3339, of the token that is in use; None where nobody said.
        repeated: the same was said last time.
    """

    name: ClassVar = "oauth.refresh_failed"
    reason: str
    failures: int
    expires: str | None = None
    hint: str
    repeated: bool = _hidden(False)

    @property
    def level(self) -> int:
        return logging.INFO if self.repeated else logging.WARNING

    @property
    def text(self) -> str:
        ends = f"; the one in use ends at {self.expires}" if self.expires else ""
        return f"account {self.account}: no new access token: {self.reason}{ends} ({self.hint})"


@noun(kw_only=True)
class OAuthCannotRefresh(_OfTokens):
    """A node may not ask for new access tokens of an account."""

    name: ClassVar = "oauth.cannot_refresh"
    reason: str

    @property
    def text(self) -> str:
        return f"account {self.account}: its tokens cannot be refreshed by this node: {self.reason}"


@noun(kw_only=True)
class OAuthExpired(_OfTokens):
    """The access token's time is over, and there is no other."""

    name: ClassVar = "oauth.expired"
    severity: ClassVar[EventSeverity] = "critical"
    reason: str

    @property
    def text(self) -> str:
        return f"account {self.account} cannot serve: {self.reason}"


@noun(kw_only=True)
class OAuthRecovered(_OfTokens):
    """A refresh worked again."""

    name: ClassVar = "oauth.recovered"
    turn: ClassVar[EventTurn] = "ends"
    failures: int

    @property
    def text(self) -> str:
        return f"account {self.account} has fresh tokens again"


@noun(kw_only=True)
class OAuthRotationLost(_OfTokens):
    """New tokens were had and could not be stored before the end: somebody has to sign in again."""

    name: ClassVar = "oauth.rotation_lost"
    about: ClassVar = "{self.name}/{self.account}"
    severity: ClassVar[EventSeverity] = "critical"
    turn: ClassVar[EventTurn] = "once"
    hint: str

    @property
    def level(self) -> int:
        return logging.ERROR

    @property
    def quiet(self) -> float:
        return HOUR

    @property
    def text(self) -> str:
        return f"account {self.account}: {self.hint}"


@noun(kw_only=True)
class OAuthExpiring(_OfTokens):
    """An access token without a refresh token will end within a week, and within a day."""

    name: ClassVar = "oauth.expiring"
    about: ClassVar = "{self.name}/{self.account}/{self.expires}/{self.left}"
    turn: ClassVar[EventTurn] = "once"
    expires: str
    left: str

    @property
    def quiet(self) -> float:
        return 8 * DAY

    @property
    def text(self) -> str:
        again = f"sign in again: relayd account login {self.account}"
        return f"account {self.account}: its access token ends in less than {self.left}, at {self.expires} ({again})"


# --- service


@noun(kw_only=True)
class GroupDown(AlertEvent):
    """No account of a group that keys use can serve."""

    name: ClassVar = "group.down"
    about: ClassVar = "group/{self.group}"
    severity: ClassVar[EventSeverity] = "critical"
    lasting: ClassVar[bool] = True
    group: str
    reason: str

    @property
    def text(self) -> str:
        return self.reason


@noun(kw_only=True)
class GroupUp(AlertEvent):
    """Some account of the group can serve again."""

    name: ClassVar = "group.up"
    about: ClassVar = "group/{self.group}"
    turn: ClassVar[EventTurn] = "ends"
    group: str

    @property
    def text(self) -> str:
        return f"group {self.group} is served again"


@noun(kw_only=True)
class ErrorsHigh(AlertEvent):
    """Many of a node's calls failed within five minutes."""

    name: ClassVar = "errors.high"
    about: ClassVar = "errors/{self.node}"
    severity: ClassVar[EventSeverity] = "critical"
    lasting: ClassVar[bool] = True
    errors: int
    calls: int
    node: str

    @property
    def text(self) -> str:
        share = self.errors / max(self.calls, 1)
        return f"{share:.0%} of calls failed on {self.node} in five minutes ({self.errors} of {self.calls})"


@noun(kw_only=True)
class ErrorsNormal(AlertEvent):
    """Few of a node's calls fail again."""

    name: ClassVar = "errors.normal"
    about: ClassVar = "errors/{self.node}"
    turn: ClassVar[EventTurn] = "ends"
    node: str

    @property
    def text(self) -> str:
        return f"few calls fail on {self.node} again"


@noun(kw_only=True)
class PriceUnknown(AlertEvent):
    """A model was used that has no price: its cost is in no figure, and no cost limit sees it."""

    name: ClassVar = "price.unknown"
    about: ClassVar = "{self.name}/{self.model}"
    turn: ClassVar[EventTurn] = "once"
    model: str
    account: str

    @property
    def quiet(self) -> float:
        return DAY

    @property
    def text(self) -> str:
        return f"model {self.model} has no price, so what it costs is counted nowhere (see prices.toml)"


def _key(key: str, owner: str | None) -> str:
    return f"key {key}" + (f" of {owner}" if owner else "")


def _resets(when: str | None) -> str:
    return f" (resets at {when})" if when else ""
