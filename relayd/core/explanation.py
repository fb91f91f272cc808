"""Explanations: which account would serve a call, and why each other would not, as a document.

Rule: pure, and the one maker of it: `relayd explain` asks the running daemon, whose pool knows most, and makes it
itself from what the state store knows where none runs.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from relayd.config.model.scenario import Scenario
from relayd.config.snapshot import ObjectId, Snapshot
from relayd.core.balancing.explain import Reason
from relayd.core.balancing.pool import Pool
from relayd.core.dry_run import dry_run

ENDPOINTS = ("messages", "count_tokens", "openai", "batches", "files", "skills")


def reasons_for(snapshot: Snapshot, pool: Pool, *, key: str, model: str, now: float) -> list[Reason]:
    """What the pool says of each account of a key's groups. The key must be in the snapshot."""
    sent = snapshot.relay.models.get(model, model)
    return pool.explain(snapshot, snapshot.keys[ObjectId(key)].groups, sent, now=now)


def explanation(
    snapshot: Snapshot,
    reasons: Sequence[Reason],
    *,
    key: str,
    model: str = "",
    client: str = "",
    address: str = "",
    endpoint: str = "messages",
    now: float,
) -> dict[str, Any]:
    """What would become of a call. The key must be in the snapshot.

    Args:
        reasons: of `reasons_for`, for the same key, model and time.
        client: its User-Agent; `address`: "" is a unix socket.
        now: Unix time, s.
    """
    scenario = Scenario(
        name="explain",
        key=ObjectId(key),
        client=client,
        model=model,
        endpoint=endpoint,  # type: ignore[arg-type]
        address=address,
        time=datetime.datetime.fromtimestamp(now, datetime.UTC),
        expect="allow",
    )
    outcome = dry_run(scenario, snapshot)
    refusal = outcome.refusal
    sent = snapshot.relay.models.get(model, model)
    return {
        "served": refusal is None and any(reason.ok for reason in reasons),
        "key": key,
        "model": model,
        "sent_model": sent,
        "refusal": refusal and {"status": refusal.status, "message": refusal.message},
        "accounts": [{"id": one.account, "serves": one.ok, "reason": one.text} for one in reasons],
        "limits": list(outcome.limits),
    }
