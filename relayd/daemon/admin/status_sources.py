"""Status sources: the parts of the daemon that status, metrics and pages are made from.

Rule: no import of what makes the documents of them, which most nodes load late (net/late.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from relayd.core.ailments import RunningFacts, Standing, standing
from relayd.core.balancing.pool import Pool
from relayd.core.cluster import drift
from relayd.core.in_flight import InFlight
from relayd.core.inventory import Inventory
from relayd.core.live import Live, PerConfig
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.admin.call_metrics import CallMetrics
from relayd.daemon.admin.loop_lag import LoopLag
from relayd.daemon.admin.service_watch import ServiceWatch
from relayd.daemon.alerts.alerting import Alerting
from relayd.daemon.log_output import Output
from relayd.daemon.net.server import HttpServer, ServerStatistics
from relayd.daemon.reload.cluster import Cluster
from relayd.daemon.reload.record import ReloadRecord
from relayd.daemon.reload.watch import Watcher
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.dead_letters import loss_ailments
from relayd.daemon.store.store_reader import StoreReader
from relayd.daemon.workers.crew import Crew
from relayd.daemon.workers.roster import Worker
from relayd.noun import noun

if TYPE_CHECKING:
    from relayd.daemon.source.keeper import SourceKeeper
    from relayd.daemon.telemetry.trace_queue import TraceQueue


@noun(kw_only=True)
class StatusSources:
    """Where the facts come from.

    Args:
        watcher: None where nobody looks for changes.
        server: the public listener's, whose connections are counted.
        service: whether calls are served here.
        started: Unix time, s.
        reader: the shared store, for what pages and reports ask of it.
        output: the log's.
        draining: the daemon is about to stop.
        streams: answers that are being streamed.
        leases: slots of accounts that this process holds in the store.
        listen: where clients come in.
        tree: the directory that the daemon follows, or where it pulls from.
        source: None where the tree is not pulled.
        crew: this node's workers.
        alerting: None where nobody is told.
        traces: None where none are sent.
    """

    live: Live
    record: ReloadRecord
    watcher: Watcher | None
    pool: Pool
    in_flight: InFlight
    server: HttpServer
    credentials: Credentials
    cluster: Cluster
    service: ServiceWatch
    call_metrics: CallMetrics
    lag: LoopLag
    reader: StoreReader
    output: Output
    node: str
    tree: str
    started: float
    draining: Callable[[], bool]
    streams: Callable[[], int]
    leases: Callable[[], int]
    crew: Crew
    listen: tuple[str, ...] = ()
    source: SourceKeeper | None = None
    alerting: Alerting | None = None
    traces: TraceQueue | None = None

    @property
    def workers(self) -> Sequence[Worker]:
        """The processes that serve besides this one."""
        return self.crew.workers

    @property
    def calls(self) -> int:
        """Under way, in all processes."""
        return self.in_flight.count() + sum(one.report.calls for one in self.workers)

    def attempts(self, account: str) -> int:
        """Under way on an account, in all processes."""
        return self.pool.in_flight(account) + sum(one.report.accounts.get(account, 0) for one in self.workers)

    def connections(self) -> ServerStatistics:
        """Of the public listener, in all processes, those included that have ended."""
        ended = self.crew.past.connections
        return sum((one.report.connections for one in self.workers), self.server.statistics + ended)

    async def look_now(self) -> None:
        """Have fresh figures of the workers, for somebody who waits: not for long."""
        if self.workers:
            await self.crew.look_now()

    @property
    def state(self) -> Batcher:
        """The shared store's."""
        return self.service.state

    @property
    def inventory(self) -> PerConfig[Inventory]:
        """Of the running config."""
        return self.service.inventory

    def standing(self, now: float) -> Standing:
        """How this node stands. `now`: Unix time, s."""
        record, candidate, nodes = self.record, self.record.candidate, self.cluster.nodes()
        running = RunningFacts(
            degraded=record.degraded,
            stored=record.origin.stored,
            hold=record.hold,
            pending=candidate.outcome.result if candidate is not None else "",
            restart_required=record.restart_required,
            deny_problem=record.deny_problem,
            alive=self.live.alive(),
            losses=tuple(loss_ailments(self.state.session.losses())),
            useless=self.inventory.of(self.live.snapshot).useless_now(now),
            source=self.source.ailments(now) if self.source is not None else (),
            log=self.output.failing or next((one.report.log for one in self.workers if one.report.log), ""),
            workers=self.crew.ailments(),
            alerts=self.alerting.ailments(now) if self.alerting is not None else (),
            store_ahead=self.cluster.store_ahead if self.cluster.known else 0.0,
        )
        return standing(
            running,
            self.service.facts(now),
            self.live.snapshot.relay.policy.readyz,
            draining=self.draining(),
            nodes=nodes,
            apart=drift(nodes),
        )
