"""An upstream whose streams a test holds: an event is sent once its reader has the one before, and the end when told.

with held_streams() as held:
    tree = write_tree(tmp_path, accounts={"sim": BESIDE_HELD, "held": held.account(tmp_path)})
    stream = StreamedCall(way, model="held-1")
    held.reads("held-1", lambda: stream.body)
    held.over.set()

A model that begins with `held-silent` is never answered, one with `held-half` gets the first events and no end.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from daemon import SIMULATOR
from waiting import PATIENCE

EVENTS = 20
BESIDE_HELD = SIMULATOR + 'models = ["claude-*"]\n'  # an account that leaves the models here to us


@attrs.define(eq=False)
class HeldStreams:
    """The upstream.

    Args:
        asked: models, in the order of their calls.
        over: once set, streams come to their end.
        steps: by model, how many of the EVENTS were read before the next one was sent.
    """

    url: str
    asked: list[str] = attrs.field(factory=list)
    over: threading.Event = attrs.field(factory=threading.Event)
    steps: Counter[str] = attrs.field(factory=Counter)
    _readers: dict[str, Callable[[], bytes]] = attrs.field(factory=dict)

    def account(self, place: Path) -> str:
        """The text of an account for it. `place`: for its secret."""
        secret = place / "held-secret"
        secret.write_text("sk-ant-none")
        head = f'kind = "api-key"\nbase_url = "{self.url}"\nmodels = ["held-*"]\n'
        return f'{head}[credential]\nfile = "{secret}"\n'

    def reads(self, model: str, body: Callable[[], bytes]) -> None:
        """Who asks for this model has got so much."""
        self._readers[model] = body

    def wait_for(self, model: str, number: int) -> None:
        """Wait until the event has been read, or streams are to end."""
        deadline = time.monotonic() + PATIENCE
        while mark(number) not in self._readers.get(model, bytes)():
            if self.over.is_set() or time.monotonic() > deadline:
                return
            time.sleep(0.002)
        self.steps[model] += 1


def mark(number: int) -> bytes:
    """What stands in the event of that number alone."""
    return b"<%d>" % number


class Serving(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 600  # s that a connection may be idle
    held: HeldStreams

    def do_POST(self) -> None:
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        self.held.asked.append(model)
        with contextlib.suppress(OSError):
            if model.startswith("held-silent"):
                self._wait_for_the_end()
                return
            self._begin()
            if model.startswith("held-half"):
                self._wait_for_the_end()
                return
            for number in range(EVENTS):
                self._delta(number)
                self.held.wait_for(model, number)
            self.held.over.wait(PATIENCE)
            self._event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9})
            self._event("message_stop")
            self.wfile.write(b"0\r\n\r\n")

    def _wait_for_the_end(self) -> None:
        """Until whoever asked has gone."""
        self.close_connection = True
        self.rfile.read(1)

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        usage = {"input_tokens": 7, "output_tokens": 1}
        self._event("message_start", message={"id": "msg_1", "role": "assistant", "usage": usage})

    def _delta(self, number: int) -> None:
        self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": mark(number).decode()})

    def _event(self, name: str, **fields: Any) -> None:
        said = json.dumps({"type": name, **fields}, separators=(",", ":"))
        data = f"event: {name}\ndata: {said}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
        """Nothing."""


@contextlib.contextmanager
def held_streams() -> Iterator[HeldStreams]:
    """The upstream, for the length of the block."""
    handler = type("Held", (Serving,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.held = held = HeldStreams(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield held
    finally:
        held.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
