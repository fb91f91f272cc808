"""The simulator with batches, files and skills besides: an upstream for the tests of what relayd does with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import simulated_batches as batches
import simulated_files as files
import simulated_skills as skills
import trio
from simulated_shelf import Shelf

from relayd.config.snapshot import Account, Server, Simulator, Size
from relayd.daemon.accounts.simulator import SimulatorApplication, SimulatorTransport
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.net.listen import open_listener
from relayd.daemon.net.server import HttpServer
from relayd.simulator.api import ROUTES, Routes
from relayd.simulator.script import json_script


def routes_of(shelf: Shelf) -> Routes:
    """The simulator's routes, and those of the objects on `shelf`."""
    return (
        (
            ("messages", "batches"),
            {
                "POST": lambda q: batches.create(shelf, q.headers, q.body, q.now, q.common),
                "GET": lambda q: batches.listed(shelf, q.headers, q.query, q.now, q.common),
            },
        ),
        (
            ("messages", "batches", "*"),
            {
                "GET": lambda q: json_script(
                    200, batches.described(batches.found(shelf, q.parts[2]), q.headers, q.now), q.common
                ),
                "DELETE": lambda q: batches.delete(shelf, batches.found(shelf, q.parts[2]), q.now, q.common),
            },
        ),
        (
            ("messages", "batches", "*", "cancel"),
            {"POST": lambda q: batches.cancel(shelf, batches.found(shelf, q.parts[2]), q.headers, q.now, q.common)},
        ),
        (
            ("messages", "batches", "*", "results"),
            {"GET": lambda q: batches.results(batches.found(shelf, q.parts[2]), q.settings.words, q.now, q.common)},
        ),
        (
            ("files",),
            {
                "POST": lambda q: files.upload(shelf, q.headers, q.body, q.now, q.common),
                "GET": lambda q: files.listed(shelf, q.query, q.common),
            },
        ),
        (
            ("files", "*"),
            {
                "GET": lambda q: json_script(200, files.described(files.found(shelf, q.parts[1])), q.common),
                "DELETE": lambda q: files.delete(shelf, files.found(shelf, q.parts[1]), q.common),
            },
        ),
        (("files", "*", "content"), {"GET": lambda q: files.download(files.found(shelf, q.parts[1]), q.common)}),
        *_skill_routes(shelf),
        *ROUTES,
    )


def _skill_routes(shelf: Shelf) -> Routes:
    return (
        (
            ("skills",),
            {
                "POST": lambda q: skills.create(shelf, q.headers, q.body, q.now, q.common),
                "GET": lambda q: skills.listed(shelf, q.query, q.common),
            },
        ),
        (
            ("skills", "*"),
            {
                "GET": lambda q: skills.read(shelf, q.parts[1], q.common),
                "DELETE": lambda q: skills.delete(shelf, q.parts[1], q.common),
            },
        ),
        (
            ("skills", "*", "versions"),
            {
                "POST": lambda q: skills.add_version(
                    shelf, skills.found(shelf, q.parts[1]), q.headers, q.body, q.now, q.common
                ),
                "GET": lambda q: skills.versions(shelf, q.parts[1], q.query, q.common),
            },
        ),
        (
            ("skills", "*", "versions", "*"),
            {
                "GET": lambda q: skills.version(shelf, q.parts[1], q.parts[3], q.common),
                "DELETE": lambda q: skills.delete_version(shelf, q.parts[1], q.parts[3], q.common),
            },
        ),
        (
            ("skills", "*", "versions", "*", "content"),
            {"GET": lambda q: skills.content(shelf, q.parts[1], q.parts[3], q.common)},
        ),
    )


class ObjectUpstreams(Upstreams):
    """Upstreams whose simulated accounts keep batches and files, with ids that tell the accounts apart."""

    def _new_simulator(self, account: Account) -> SimulatorTransport:
        shelf = Shelf(serial=crc32(account.id.encode()) << 32)
        return SimulatorTransport(account.simulator, self.wall, routes_of(shelf))


@contextmanager
def serving_objects() -> Iterator[str]:
    """A server of the same, for daemons that are processes of their own: its URL."""
    sockets = open_listener("127.0.0.1:0")
    application = SimulatorApplication(Simulator(), lambda: 1_800_000_000.0, routes_of(Shelf()))
    server = HttpServer(application, lambda: Server(max_request_body=Size(1 << 26)))
    started, token = threading.Event(), list[trio.lowlevel.TrioToken]()

    async def serve() -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, sockets)
            started.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    thread.start()
    try:
        assert started.wait(60)
        yield url
    finally:
        token[0].run_sync_soon(server.drain)
        thread.join()
