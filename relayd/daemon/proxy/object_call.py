"""Object calls: a request about batches, files or skills, once its sender is known."""

from __future__ import annotations

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.access.owned_paths import ObjectRequest
from relayd.core.receipt import Draft
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.proxy.own_address import own_address
from relayd.daemon.proxy.routes import MESSAGES
from relayd.noun import noun
from relayd.wire.call import Call
from relayd.wire.http import HeaderPairs, RequestHead


@noun(kw_only=True)
class ObjectCall:
    """A request about batches, files or skills whose sender is known."""

    exchange: Exchange
    asked: ObjectRequest
    draft: Draft
    key: ApiKey
    snapshot: Snapshot

    @property
    def deadline(self) -> float:
        """When its time is up, on trio's clock, s."""
        return self.exchange.clock_start + self.snapshot.relay.upstream.total_timeout

    @property
    def client(self) -> HeaderPairs:
        """The headers that travel on."""
        return MESSAGES.upstream_headers(self.exchange.head)

    @property
    def results_url(self) -> str:
        """The address under which the client finds the results of batches."""
        return results_base(self.exchange.head, self.exchange.peer, self.snapshot)

    def call(self, *, body: bytes = b"", model: str = "") -> Call:
        """What the upstream is asked."""
        head, asked = self.exchange.head, self.asked
        return Call(endpoint=asked.kind, method=head.method, path=asked.path, query=head.query, model=model, body=body)


def results_base(head: RequestHead, peer: str, snapshot: Snapshot) -> str:
    """The batches' address as the client knows it."""
    prefix = "/api" if head.path.startswith("/api/") else ""
    return f"{own_address(head, peer, snapshot)}{prefix}/v1/messages/batches"
