"""Control answers: what the control socket answers to each verb. Requests and answers: control_socket.py.

Rule: loaded when the first peer asks (net/late.py), with the documents that the answers are made of.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from relayd.config.guard import refuses
from relayd.core.explanation import ENDPOINTS, explanation, reasons_for
from relayd.daemon.admin.alerts import alerts_document, try_target
from relayd.daemon.admin.control_socket import VERBS, BadRequest
from relayd.daemon.admin.documents import history_document, origin_document, result_document
from relayd.daemon.admin.scrape import scrape
from relayd.daemon.admin.status import status_document
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.alerts.alerting import Alerting
from relayd.daemon.reload.examination import why_not_examined
from relayd.daemon.reload.history import History
from relayd.daemon.reload.requests import (
    Examine,
    Operation,
    Reload,
    ReloadResult,
    RequestQueue,
    Resume,
    Rollback,
    Trigger,
)
from relayd.noun import noun

log = logging.getLogger("relayd.control")

Kind = TypeVar("Kind", Reload, Rollback, Resume)


@noun(kw_only=True)
class ControlAnswers:
    """Answers requests. `wall`: Unix time, s."""

    queue: RequestQueue
    history: History
    sources: StatusSources
    wall: Callable[[], float]

    async def answer(self, line: bytes, verbs: Collection[str]) -> dict[str, Any]:
        """The answer to one line. `verbs`: what this peer may ask for. Raises: BadRequest."""
        asked = _parsed(line)
        verb = asked.pop("verb", None)
        if verb in VERBS and verb not in verbs:
            raise BadRequest(f"verb: {verb!r} is for root and the daemon's own user ({', '.join(verbs)} are for all)")
        match verb:
            case "reload":
                return await self._reload(_reload_operation(asked))
            case "rollback":
                return await self._ask("rollback", _operation(Rollback, asked))
            case "resume":
                return await self._ask("resume", _operation(Resume, asked))
            case "examine":
                return await self._examine(asked)
            case "diff":
                # What is compared is what runs, with all that waits for a restart or was denied meanwhile, and the
                # tree as the daemon itself reads it. Nobody else knows the one, and nobody else's reading counts.
                result = await self.queue.request("command", Reload(dry_run=True)).wait()
                return {"ok": True, "diff": self._diff(result)}
            case "generations":
                stored = await trio.to_thread.run_sync(self.history.listed)
                return {"ok": True, "generations": history_document(stored, self.sources.record)}
            case "tree":
                return {"ok": True, "tree": self.sources.tree}
            case "status":
                await self.sources.cluster.look_now()
                await self.sources.look_now()
                return {"ok": True, "status": status_document(self.sources, self.wall())}
            case "metrics":
                return {"ok": True, "metrics": await scrape(self.sources, self.wall)}
            case "explain":
                return {"ok": True, "explanation": await self._explain(asked)}
            case "wake":
                return {"ok": True, "woken": self._wake(asked)}
            case "alerts":
                return {"ok": True, "alerts": await alerts_document(self._alerting())}
            case "alert_test":
                return {"ok": True, "tested": await self._test_alert(asked)}
            case _:
                raise BadRequest(f"verb: {verb!r} is not one of {', '.join(VERBS)}")

    async def _reload(self, operation: Reload) -> dict[str, Any]:
        answer = await self._ask("command", operation)
        running = self.sources.live.snapshot
        return {**answer, "refused": [name for name in operation.revoked if refuses(running, name)]}

    async def _ask(self, trigger: Trigger, operation: Operation) -> dict[str, Any]:
        result = await self.queue.request(trigger, operation).wait()
        return {"ok": True, "result": result_document(result)}

    async def _examine(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What would become of a tree that is not in place yet. Raises: BadRequest."""
        texts = _texts(asked, "tree", "accept")
        look = partial(why_not_examined, Path(self.sources.tree), Path(texts["tree"]))
        if why := await trio.to_thread.run_sync(look):
            raise BadRequest(f"tree: {why}")
        return await self._ask("command", Examine(**texts))

    async def _explain(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Why a call would go where, by what runs. Raises: BadRequest."""
        snapshot = self.sources.live.snapshot
        texts = _texts(asked, "key", "model", "client", "address", "endpoint")
        if texts["key"] not in snapshot.keys:
            raise BadRequest(f"key: the daemon runs no key {texts['key']!r} (was the tree reloaded?)")
        texts["endpoint"] = texts["endpoint"] or "messages"
        if texts["endpoint"] not in ENDPOINTS:
            raise BadRequest(f"endpoint: expected one of {', '.join(ENDPOINTS)}")
        now = self.wall()
        reasons = reasons_for(snapshot, self.sources.pool, key=texts["key"], model=texts["model"], now=now)
        return await trio.to_thread.run_sync(partial(explanation, snapshot, reasons, now=now, **texts))

    def _wake(self, asked: dict[str, Any]) -> dict[str, Any]:
        """End an account's rest; the store tells the other nodes. Raises: BadRequest."""
        name, pool = _texts(asked, "account")["account"], self.sources.pool
        if name not in self.sources.live.snapshot.accounts:
            raise BadRequest(f"account: the daemon runs no account {name!r} (was the tree reloaded?)")
        rested = pool.resting(name, self.wall())
        pool.wake(name, self.wall())
        log.info("account.woken", extra={"account": name, "rested": rested[2] if rested else ""})
        return {"account": name, "rested": rested[2] if rested else ""}

    def _alerting(self) -> Alerting:
        """Raises: BadRequest."""
        if self.sources.alerting is None:
            raise BadRequest("this daemon tells nobody of anything")
        return self.sources.alerting

    async def _test_alert(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Try a target. Raises: BadRequest."""
        name = _texts(asked, "target")["target"]
        if name not in self.sources.live.snapshot.relay.alerts:
            raise BadRequest(f"target: the daemon runs no [alerts.{name}] (was the tree reloaded?)")
        return await try_target(self._alerting(), name, self.wall())

    def _diff(self, result: ReloadResult) -> dict[str, Any]:
        """What runs, and what the tree on disk would change of it, given the result of a dry run."""
        return {
            "tree": self.sources.tree,
            "running": origin_document(self.sources.record.origin, self.sources.live.generation),
            "candidate": result_document(result),
        }


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except ValueError:
        raise BadRequest("the request is not JSON") from None
    if not isinstance(asked, dict):
        raise BadRequest("the request is not a JSON object")
    return asked


def _texts(asked: dict[str, Any], *names: str) -> dict[str, str]:
    """The fields of a request, each a text, "" for those left out. Raises: BadRequest."""
    for name, value in asked.items():
        if name not in names or not isinstance(value, str):
            raise BadRequest(f"{name}: expected {', '.join(names)}, each a text")
    return {name: asked.get(name, "") for name in names}


def _reload_operation(asked: dict[str, Any]) -> Reload:
    """A reload from its JSON fields. Raises: BadRequest."""
    revoked = asked.pop("revoked", [])
    if not isinstance(revoked, list) or not all(isinstance(name, str) for name in revoked):
        raise BadRequest("revoked: expected a list of texts")
    return attrs.evolve(_operation(Reload, asked), revoked=tuple(revoked))


def _operation(kind: type[Kind], fields: dict[str, Any]) -> Kind:
    """An operation from its JSON fields; each must be known and of its type."""
    known = {field.name: field.default for field in attrs.fields(kind)}
    for name, value in fields.items():
        if name not in known:
            raise BadRequest(f"{name}: unknown field")
        expected = int if name == "generation" else type(known[name])
        if type(value) is not expected and not (name == "generation" and value is None):
            raise BadRequest(f"{name}: expected {expected.__name__}")
    return kind(**fields)
