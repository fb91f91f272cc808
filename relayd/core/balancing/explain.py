"""Explanations: why an account does not serve, in words, and what a client is told when none does.

Rule: the pool states each reason once, as a Block; refusals, `relayd explain`, `status` and the pages all print these.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import Literal

from relayd.core.balancing.blame import FailureKind
from relayd.noun import noun
from relayd.wire.refusal import Refusal

BlockKind = Literal[FailureKind, "never"]

SHOWN = 5  # accounts that a refusal names; the rest is a number
# From here on, s, a client does better to give up than to sleep: official SDKs obey any retry-after, however long.
_TOO_LONG = 300.0


@noun
class Block:
    """Why one account cannot serve a call.

    Args:
        kind: "never" = by the config, whatever happens.
        until: Unix time, s, when it may be over; math.inf for "never".
        before, after: the reason, around the time where that is worth saying.
        timed: whether it is.
        detail: more, for operators only: it may name recipients, files and variables.
        full: it has no place left among its calls in flight, which counting tokens takes none of.
    """

    account: str
    kind: BlockKind
    until: float
    before: str
    after: str = ""
    timed: bool = False
    detail: str = ""
    full: bool = False

    def text(self, now: float, zone: datetime.tzinfo = datetime.UTC, *, whole: bool = False) -> str:
        """The reason in words, with the time of day in `zone`; `whole`: for an operator."""
        said = f"{self.before} {clock(self.until, now, zone)}{self.after}" if self.timed else self.before + self.after
        return f"{said}: {self.detail}" if whole and self.detail else said


@noun(kw_only=True)
class Unavailable:
    """No account can serve now.

    Args:
        until: Unix time, s, of the soonest that one can; math.inf when none ever will.
        kind: what keeps that one back: "none" when no account may ever serve.
        blocks: each account's reason.
        model: what was asked for.
    """

    until: float
    kind: Literal["rate", "overload", "outage", "none"]
    blocks: tuple[Block, ...]
    model: str = ""


@noun
class Reason:
    """One line of an explanation."""

    account: str
    ok: bool
    text: str


def unavailable(blocks: Sequence[Block], model: str) -> Unavailable:
    """What the blocks of all accounts come to: the one that is over first decides."""
    hopeful = [block for block in blocks if block.kind != "never"]
    if not hopeful:
        return Unavailable(until=math.inf, kind="none", blocks=tuple(blocks), model=model)
    first = min(hopeful, key=lambda block: block.until)
    kind: Literal["rate", "overload", "outage"]
    match first.kind:
        case "rate":
            kind = "rate"
        case "overload":
            kind = "overload"
        case _:
            kind = "outage"
    return Unavailable(until=first.until, kind=kind, blocks=tuple(blocks), model=model)


def refusal_of(found: Unavailable, *, now: float, zone: datetime.tzinfo = datetime.UTC) -> Refusal:
    """What a client is told.

    429 when rate limits hold the accounts, 529 when overload or outage does, 403 when no account may ever serve.
    Clients treat these very differently: Claude Code tries ten times after a 429 and twice after a 529.
    """
    reasons = summary(found.blocks, now, zone)
    if found.kind == "none":
        wanted = f"model {_shown(found.model)}" if found.model else "this call"
        message = f"no account of this key's groups serves {wanted}" + (f" ({reasons})" if reasons else "")
        return Refusal(status=403, message=message, param="model" if found.model else None, code="no_account")
    wait = max(1, math.ceil(found.until - now))
    if found.kind == "rate":
        status, message = 429, "Rate limit exceeded: no account has room now"
    else:
        status, message = 529, "Overloaded: no account can serve now"
    return Refusal(
        status=status,
        message=f"{message} ({reasons})",
        retry_after=wait,
        should_retry=False if wait > _TOO_LONG else None,
        code="no_account",
    )


def summary(blocks: Sequence[Block], now: float, zone: datetime.tzinfo = datetime.UTC) -> str:
    """ "a: cooling down until 12:03:10, 429 from upstream; b: does not serve claude-opus-4-1; and 7 more".

    Who can serve soonest comes first.
    """
    ordered = sorted(blocks, key=lambda block: block.until)
    texts = [f"{block.account}: {block.text(now, zone)}" for block in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        texts.append(f"and {len(ordered) - SHOWN} more")
    return "; ".join(texts)


def clock(moment: float, now: float, zone: datetime.tzinfo = datetime.UTC) -> str:
    """A time of day, rounded up to the second; with its date when that is not today's."""
    then = datetime.datetime.fromtimestamp(math.ceil(moment), zone)
    today = datetime.datetime.fromtimestamp(now, zone).date()
    return then.strftime("%H:%M:%S" if then.date() == today else "%Y-%m-%d %H:%M:%S")


def _shown(model: str) -> str:
    """A client's text, fit for an error message and a log line."""
    return ascii(model[:100])[1:-1]
