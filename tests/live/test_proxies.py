"""The files for Caddy, nginx and HAProxy, each before the same two nodes, one of which is stopped under calls and
streams: no call is lost, no stream is held back, and the log has the client's address."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
from collections.abc import Iterator

import attrs
import httpx2
import pytest
from builders import KEY
from daemon import Daemon, start, write_tree
from held_streams import BESIDE_HELD, EVENTS, HeldStreams, held_streams
from proxies import ADMIN_SITE, SITE, Proxy, caddy, haproxy, nginx
from steady_calls import ASK, SteadyCalls, StreamedCall, Way, steady_calls
from waiting import PATIENCE, wait_until

PROXIES = {"caddy": caddy, "nginx": nginx, "haproxy": haproxy}
ADDRESSES = dict(zip(PROXIES, ("127.0.0.2", "127.0.0.3", "127.0.0.4"), strict=True))  # of the clients of each
FORGED = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9"}
RELAY = f"""
[server]
drain_delay = "2s"
sse_keepalive = "0s"  # what a node writes by itself would tell it that a client has left
sse_head_after = "0s"
[upstream]
models_every = "0s"
[admin]
listen = "127.0.0.1:0"
hosts = ["{ADMIN_SITE}"]
"""


@attrs.define
class Passed:
    """What came of it all, by proxy."""

    nodes: list[Daemon]
    ways: dict[str, Way] = attrs.field(factory=dict)
    calls: dict[str, SteadyCalls] = attrs.field(factory=dict)
    streams: dict[str, list[StreamedCall]] = attrs.field(factory=dict)
    steps: dict[str, list[int]] = attrs.field(factory=dict)  # events that were read before the next one was sent
    pages: dict[str, list[int]] = attrs.field(factory=dict)
    left: dict[str, int] = attrs.field(factory=dict)  # calls that a node has given up because their client left

    def served(self, address: str) -> list[list[str]]:
        """The ids of the calls that each node has served for clients there."""
        return [[one["id"] for one in node.events("call.done") if one["peer"] == address] for node in self.nodes]


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passed]:
    """All three at once, so that two nodes and one stop do."""
    place = tmp_path_factory.mktemp("proxies")
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(held_streams())
        tree = {"relay": RELAY, "accounts": {"sim": BESIDE_HELD, "held": held.account(place)}}
        passed = Passed([start(write_tree(place / name, **tree), "--node", name) for name in ("n1", "n2")])
        first, second = passed.nodes
        stack.callback(second.kill)
        stack.callback(first.kill)
        admin = first.events("daemon.listening")[0]["admin"][0].removeprefix("http://")
        ports = [node.url.removeprefix("http://") for node in passed.nodes]
        for name, running in PROXIES.items():
            (place / name).mkdir()
            proxy = stack.enter_context(running(place / name, ports, admin))
            way = Way(proxy.url, SITE, proxy.trust, ADDRESSES[name], FORGED)
            passed.ways[name] = way
            passed.pages[name] = _statuses(proxy, "/web", "/web/sign-in", "/metrics", "/api/status", "/")
        for name, way in passed.ways.items():
            passed.calls[name] = stack.enter_context(steady_calls(way, clients=3))
            passed.streams[name] = [begin_stream(held, way, f"held-{name}-{number}") for number in range(2)]
        stepped = [f"held-{name}-{number}" for name in PROXIES for number in range(2)]
        with contextlib.suppress(AssertionError):
            wait_until(lambda: all(held.steps[model] == EVENTS for model in stepped), "every event")
        passed.steps = {name: [held.steps[f"held-{name}-{number}"] for number in range(2)] for name in PROXIES}
        wait_until(lambda: all(all(passed.served(address)) for address in ADDRESSES.values()), "calls of both nodes")
        first.signal(signal.SIGTERM)
        first.wait_for("daemon.draining")
        held.over.set()  # the streams go on to their end while the node drains
        assert first.wait() == 0
        for name in PROXIES:
            passed.calls[name].wait_for(20)
        for name in PROXIES:
            passed.calls[name].stop()
            for stream in passed.streams[name]:
                stream.whole()
        for name, way in passed.ways.items():
            leave(held, way, f"held-silent-{name}")
            leave(held, way, f"held-half-{name}")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: all(given_up(second, address) == 2 for address in ADDRESSES.values()), "that they left")
        passed.left = {name: given_up(second, address) for name, address in ADDRESSES.items()}
        second.kill()  # a call that nobody gave up would never end
        yield passed


def begin_stream(held: HeldStreams, way: Way, model: str) -> StreamedCall:
    """A stream that goes on as it is read."""
    stream = StreamedCall(way, model=model)
    held.reads(model, lambda: stream.body)
    return stream


def leave(held: HeldStreams, way: Way, model: str) -> None:
    """Ask, and leave once the upstream has the call, or the client the first of its answer."""
    url, body = httpx2.URL(way.url), json.dumps({**ASK, "model": model, "stream": True}).encode()
    head = {"host": way.name, "x-api-key": KEY, "content-length": str(len(body)), **way.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    plain = socket.create_connection((url.host, url.port), source_address=(way.address, 0), timeout=PATIENCE)
    assert way.verify is not None
    with plain, way.verify.wrap_socket(plain, server_hostname=way.name) as line:
        line.sendall(f"POST /v1/messages HTTP/1.1\r\n{lines}\r\n".encode() + body)
        wait_until(lambda: model in held.asked, "the call to reach the upstream")
        if model.startswith("held-half"):
            told = b""
            while b"message_start" not in told:
                told += (piece := line.recv(65536))
                assert piece, told
        line.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):  # as clients do; with something unread the end is a reset
            line.recv(65536)


def given_up(node: Daemon, address: str) -> int:
    return sum(one["peer"] == address and one["outcome"] == "left" for one in node.events("call.done"))


def _statuses(proxy: Proxy, *paths: str) -> list[int]:
    way = Way(proxy.url, ADMIN_SITE, proxy.trust)
    with way.client() as client:
        return [client.get(path, extensions=way.extensions).status_code for path in paths]


@pytest.mark.parametrize("name", PROXIES)
def test_no_call_and_no_stream_is_lost_while_a_node_is_stopped(passed: Passed, name: str) -> None:
    assert passed.calls[name].failures == []
    assert [stream.fault for stream in passed.streams[name]] == ["", ""]
    assert all(stream.whole() for stream in passed.streams[name])
    assert all(passed.served(ADDRESSES[name])), "both nodes had calls"


@pytest.mark.parametrize("name", PROXIES)
def test_events_are_passed_on_as_they_come(passed: Passed, name: str) -> None:
    assert passed.steps[name] == [EVENTS, EVENTS]


@pytest.mark.parametrize("name", PROXIES)
def test_a_node_hears_that_a_client_has_left_before_and_amid_its_answer(passed: Passed, name: str) -> None:
    assert passed.left[name] == 2


@pytest.mark.parametrize("name", PROXIES)
def test_the_log_has_the_clients_address_and_nothing_that_it_forged(passed: Passed, name: str) -> None:
    known = {one for node in passed.served(ADDRESSES[name]) for one in node}
    assert {stream.served for stream in passed.streams[name]} <= known
    assert len(known) >= len(passed.calls[name].took)
    peers = {one["peer"] for node in passed.nodes for one in node.events("call.done")}
    assert peers == set(ADDRESSES.values())
    assert all(one["client_request_id"] for node in passed.nodes for one in node.events("call.done"))


@pytest.mark.parametrize("name", PROXIES)
def test_of_the_admin_listener_only_the_pages_are_reached(passed: Passed, name: str) -> None:
    web, sign_in, *others = passed.pages[name]
    assert web in (200, 302, 303, 307)
    assert sign_in == 200
    assert others == [404, 404, 302]  # whoever types the name alone comes to the pages


@pytest.mark.parametrize("name", PROXIES)
def test_a_good_answer_comes_over_a_certificate_for_the_name(passed: Passed, name: str) -> None:
    way = attrs.evolve(passed.ways[name], name="other.example.com")
    with way.client() as client, pytest.raises(httpx2.HTTPError):
        client.get("/livez", extensions=way.extensions)
