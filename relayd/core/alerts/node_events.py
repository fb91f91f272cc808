"""Alert events of a node itself: its config, its source, its state store, the others, and what it tells of its own.

Rule: as in events.py, which says what an event is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from relayd.core.alerts import events as e
from relayd.core.alerts.events import DAY, HOUR, AlertEvent, EventSeverity, EventTurn
from relayd.noun import noun

# --- config


@noun(kw_only=True)
class _OfReload(AlertEvent):
    """A round of a reload. `told`: the fields of the log line."""

    about: ClassVar = "config"
    lasting: ClassVar[bool] = True
    logger: ClassVar[str] = "relayd.reload"
    told: Mapping[str, Any]

    def fields(self) -> dict[str, Any]:
        return dict(self.told)

    def _why(self) -> str:
        found = self.told.get("problems") or self.told.get("reasons") or ()
        return "; ".join(map(str, list(found)[:3])) or "relayd status says why"


@noun(kw_only=True)
class ReloadRejected(_OfReload):
    """The tree on disk does not run: it has errors."""

    name: ClassVar = "reload.rejected"

    @property
    def text(self) -> str:
        return f"the tree was rejected, the config before it runs on: {self._why()}"


@noun(kw_only=True)
class ReloadHeld(_OfReload):
    """The tree on disk waits for somebody to confirm it."""

    name: ClassVar = "reload.held"

    @property
    def text(self) -> str:
        return f"the tree is held until somebody accepts it: {self._why()}"


@noun(kw_only=True)
class ReloadApplied(_OfReload):
    """The tree on disk runs."""

    name: ClassVar = "reload.applied"
    turn: ClassVar[EventTurn] = "ends"

    @property
    def text(self) -> str:
        return "the tree on disk runs"


@noun(kw_only=True)
class ReloadUnchanged(ReloadApplied):
    """The tree on disk is what runs already."""

    name: ClassVar = "reload.unchanged"


@noun(kw_only=True)
class ReloadDegraded(AlertEvent):
    """A stored generation serves, for the tree was broken at the start. `stored`: its number."""

    name: ClassVar = "reload.degraded"
    about: ClassVar = "config"
    severity: ClassVar[EventSeverity] = "critical"
    lasting: ClassVar[bool] = True
    logger: ClassVar[str] = "relayd.reload"
    reason: str
    stored: int

    @property
    def text(self) -> str:
        return f"DEGRADED: {self.reason}; generation {self.stored} serves"


@noun(kw_only=True)
class SourceFailed(AlertEvent):
    """The tree's source cannot be fetched."""

    name: ClassVar = "source.failed"
    about: ClassVar = "source"
    lasting: ClassVar[bool] = True
    logger: ClassVar[str] = "relayd.source"
    source: str
    reason: str

    @property
    def text(self) -> str:
        return f"the tree cannot be fetched from {self.source}: {self.reason}"


@noun(kw_only=True)
class SourceRecovered(AlertEvent):
    """The tree's source can be fetched again."""

    name: ClassVar = "source.recovered"
    about: ClassVar = "source"
    turn: ClassVar[EventTurn] = "ends"
    logger: ClassVar[str] = "relayd.source"
    source: str

    @property
    def text(self) -> str:
        return f"the tree is fetched from {self.source} again"


# --- the others


@noun(kw_only=True)
class FleetDrift(AlertEvent):
    """Nodes run different trees, and have for a while."""

    name: ClassVar = "fleet.drift"
    about: ClassVar = "drift"
    lasting: ClassVar[bool] = True
    logger: ClassVar[str] = "relayd.cluster"
    behind: tuple[str, ...]
    lead: str
    tree: str

    @property
    def text(self) -> str:
        do = "does" if len(self.behind) == 1 else "do"
        return f"DRIFT: {', '.join(self.behind)} {do} not run tree {self.tree}, as {self.lead} does"


@noun(kw_only=True)
class FleetAgrees(AlertEvent):
    """All nodes run the same tree again."""

    name: ClassVar = "fleet.agrees"
    about: ClassVar = "drift"
    turn: ClassVar[EventTurn] = "ends"
    logger: ClassVar[str] = "relayd.cluster"
    nodes: int

    @property
    def text(self) -> str:
        return f"all nodes run the same tree ({self.nodes})"


# --- state


@noun(kw_only=True)
class StateUnavailable(AlertEvent):
    """A node has lost its state store. Nodes cannot agree on who tells of it: see `daemon/alerts/alerting.py`."""

    name: ClassVar = "state.unavailable"
    about: ClassVar = "state"
    severity: ClassVar[EventSeverity] = "critical"
    lasting: ClassVar[bool] = True
    logger: ClassVar[str] = "relayd.state"
    reason: str

    @property
    def text(self) -> str:
        return f"the state store is away: {self.reason}"


@noun(kw_only=True)
class StateAvailable(AlertEvent):
    """The state store answers again."""

    name: ClassVar = "state.available"
    about: ClassVar = "state"
    turn: ClassVar[EventTurn] = "ends"
    logger: ClassVar[str] = "relayd.state"
    store: str

    @property
    def text(self) -> str:
        return f"the state store answers again ({self.store})"


@noun(kw_only=True)
class StateSetAside(AlertEvent):
    """The store refused a settlement, which was set aside in a file for a person."""

    name: ClassVar = "state.set_aside"
    about: ClassVar = "{self.name}"
    turn: ClassVar[EventTurn] = "once"
    logger: ClassVar[str] = "relayd.state"
    call: str
    reason: str
    file: str

    @property
    def level(self) -> int:
        return logging.ERROR

    @property
    def quiet(self) -> float:
        return HOUR

    @property
    def text(self) -> str:
        return f"a settlement was refused by the state store and set aside in {self.file}: {self.reason}"


@noun(kw_only=True)
class StateLost(StateSetAside):
    """It could not even be set aside: what it would have booked is lost."""

    name: ClassVar = "state.lost"
    severity: ClassVar[EventSeverity] = "critical"
    problem: str

    @property
    def text(self) -> str:
        return f"a settlement was lost: the state store refused it ({self.reason}), and {self.file}: {self.problem}"


# --- what relayd tells by itself


@noun(kw_only=True)
class DailyReport(AlertEvent):
    """What the day before came to. `told`: its figures, as `relayd report --json` names them."""

    name: ClassVar = "report.daily"
    severity: ClassVar[EventSeverity] = "info"
    turn: ClassVar[EventTurn] = "once"
    told: Mapping[str, Any]

    @property
    def level(self) -> int:
        return logging.INFO

    @property
    def condition(self) -> str:
        return f"{self.name}/{self.told['first']}"

    @property
    def quiet(self) -> float:
        return DAY

    def fields(self) -> dict[str, Any]:
        return dict(self.told)

    @property
    def text(self) -> str:
        told = self.told
        lines = [
            f"{told['first']}: {told['requests']:,} requests, {told['tokens']:,} tokens, ${told['cost']}, "
            f"{told['error_rate']:.1%} failed, {told['unique_keys']} keys"
        ]
        lines += [f"{one['model']}: {one['requests']:,} requests, ${one['cost']}" for one in told["top_models"]]
        lines += [f"{one['key']}: {one['requests']:,} requests, ${one['cost']}" for one in told["top_keys"]]
        lines += [f"without a price: {', '.join(told['unpriced_models'])}"] if told["unpriced_models"] else []
        return "\n".join(lines)


@noun(kw_only=True)
class AlertTest(AlertEvent):
    """Somebody tries a target: `relayd alert test`."""

    name: ClassVar = "alert.test"
    about: ClassVar = "{self.name}/{self.target}"
    severity: ClassVar[EventSeverity] = "info"
    turn: ClassVar[EventTurn] = "once"
    target: str

    @property
    def text(self) -> str:
        return f"this is a test of the alert target {self.target}; nothing is wrong"


ALERT_EVENTS: tuple[type[AlertEvent], ...] = (
    e.LimitNear, e.LimitReached, e.KeyExpiring,
    e.AccountOut, e.AccountCredential, e.AccountRecovered, e.AccountUnusable, e.AccountUsable,
    e.OAuthRefreshFailed, e.OAuthCannotRefresh, e.OAuthExpired, e.OAuthRecovered, e.OAuthRotationLost, e.OAuthExpiring,
    e.GroupDown, e.GroupUp, e.ErrorsHigh, e.ErrorsNormal, e.PriceUnknown,
    ReloadRejected, ReloadHeld, ReloadDegraded, ReloadApplied, ReloadUnchanged, SourceFailed, SourceRecovered,
    FleetDrift, FleetAgrees, StateUnavailable, StateAvailable, StateSetAside, StateLost, DailyReport, AlertTest,
)  # fmt: skip
