"""Traffic: the upstream behind the relays, and the load before them; both are small C programs in this folder.

Rule: they run on another core than what is measured, and take a twentieth of the CPU that the leanest relay takes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import attrs
import httpx2
from ports import free_port

HERE = Path(__file__).parent
MODEL = "claude-sonnet-5-5"
PAUSE = 0.05  # s between two events of a paced stream: 20 events a second, as models write


@attrs.frozen(kw_only=True)
class Shape:
    """What is asked for. `deltas`: 0 for a JSON answer; `first`, `pause`: s before the head, and between deltas."""

    size: int = 20  # bytes of the prompt
    deltas: int = 0
    first: float = 0.0
    pause: float = 0.0


JSON, SSE, LARGE = Shape(), Shape(deltas=20), Shape(size=200_000)
PACED = Shape(deltas=100, pause=PAUSE)
FIRST = Shape(deltas=20, first=0.02, pause=PAUSE)


@attrs.frozen(kw_only=True)
class Load:
    """What a load has seen; times in ms, by percentile."""

    answers: int
    failed: int
    deltas: int
    seconds: float
    opened: int
    why: str
    first: dict[str, float]
    total: dict[str, float]
    cpu: float


def compiled(folder: Path) -> tuple[Path, Path]:
    """The upstream and the load. Raises: SystemExit where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit(
            "side by side: there is no C compiler (apt install gcc libc6-dev)"
        )  # Python's traffic costs too much
    for name in ("upstream", "load"):
        subprocess.run([compiler, "-O2", "-o", folder / name, HERE / f"{name}.c"], check=True)
    return folder / "upstream", folder / "load"


@attrs.define
class Traffic:
    """A running upstream, and the load to send. `core`: where both run; None: anywhere."""

    process: subprocess.Popen[str]
    port: int
    load: Path
    core: int | None

    @classmethod
    def start(cls, folder: Path, core: int | None) -> Traffic:
        """Compile both, and start the upstream."""
        upstream, load = compiled(folder)
        port = free_port()
        command = [*on_core(core), str(upstream), str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return cls(process, port, load, core)

    def stop(self) -> None:
        """End the upstream."""
        self.process.terminate()
        self.process.wait(10)

    def flow(self, shape: Shape) -> None:
        """How the upstream answers from now on."""
        times = f"first_us={shape.first * 1e6:.0f}&pause_us={shape.pause * 1e6:.0f}"
        httpx2.get(f"http://127.0.0.1:{self.port}/set?events={shape.deltas or 20}&{times}", trust_env=False, timeout=60)

    def begin(
        self, port: int, request: bytes, shape: Shape, *, connections: int, seconds: float, rate: float = 0
    ) -> subprocess.Popen[bytes]:
        """Start a load, which ends by itself."""
        words = [str(port), str(connections), f"{seconds:g}", f"{rate:g}", str(shape.deltas)]
        process = subprocess.Popen(
            [*on_core(self.core), self.load, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(request)
        process.stdin.close()
        process.stdin = None  # `communicate` need not write
        return process

    def run(
        self, port: int, request: bytes, shape: Shape, *, connections: int, seconds: float, rate: float = 0
    ) -> Load:
        """Send a load, and wait for what it has seen."""
        return seen(self.begin(port, request, shape, connections=connections, seconds=seconds, rate=rate))


def seen(load: subprocess.Popen[bytes]) -> Load:
    """What a load has seen, when it has ended."""
    out, _ = load.communicate(timeout=200)
    return Load(**json.loads(out)) if load.returncode == 0 else Load(
        answers=0, failed=1, deltas=0, seconds=1, opened=0, why="nobody answers at its port", first={}, total={}, cpu=0
    )  # fmt: skip


def on_core(core: int | None) -> tuple[str, ...]:
    """What keeps a command on one core."""
    return () if core is None or shutil.which("taskset") is None else ("taskset", "-c", str(core))


def cores() -> tuple[int | None, int | None]:
    """One core for what is measured, another for the traffic; None where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


def request(path: str, headers: dict[str, str], shape: Shape, model: str = MODEL) -> bytes:
    """A call as clients make it."""
    message = {"role": "user", "content": "word " * (shape.size // 5)}
    fields = {"model": model, "max_tokens": 100, "stream": shape.deltas > 0, "messages": [message]}
    body = json.dumps(fields, separators=(",", ":")).encode()
    lines = {
        "host": "127.0.0.1",
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "Anthropic/Python 2.12.0",
        "anthropic-version": "2023-06-01",
        **headers,
        "content-length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
