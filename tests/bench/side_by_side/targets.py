"""Targets: what is measured, each installed and started as its makers recommend for production, with one process.

Rule: one core, one process, one account, the native Messages path, and whatever the product checks and counts by itself
left on. Peers live in a folder of their own; relayd depends on none of them.

Source: nginx: "Using nginx as HTTP load balancer" and ngx_http_upstream_module (keepalive). LiteLLM: "Production Best
Practices" and "Server Tuning" of its docs (one Uvicorn worker a core, LITELLM_MODE, LITELLM_LOG, request_timeout).
Portkey: README of the gateway (the published start-server.js). claude-code-router: its README (APIKEY, Providers,
NON_INTERACTIVE_MODE).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
from machine import first_line
from ports import free_port
from traffic import MODEL, on_core

from relayd import __version__
from relayd.config.secrets.api_keys import key_hash, mint

ROOT = Path(__file__).parents[3]
PATIENCE = 240.0  # s to start; LiteLLM reads its prices for most of a minute on a slow machine


class NotInstalled(Exception):
    """A target that cannot be had here. The text says why."""


@attrs.frozen(kw_only=True)
class Program:
    """What to start, and how to ask it.

    Args:
        notes: how it is set up, for the table's readers.
    """

    title: str
    command: tuple[str, ...]
    port: int
    environment: Mapping[str, str]
    path: str = "/v1/messages"
    headers: Mapping[str, str]
    model: str = MODEL
    notes: str


Make = Callable[[Path, int], Program]  # from a folder of its own and the upstream's port. Raises: NotInstalled


@attrs.define
class Target:
    """A program that runs. All its processes are in one group, which stops while another target is measured."""

    name: str
    program: Program
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, program: Program, folder: Path, core: int | None) -> Target:
        """Start it, and wait until it listens. Raises: NotInstalled."""
        log = folder / "output"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*on_core(core), *program.command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=folder,
                env={**_environment(), **program.environment},
                start_new_session=True,
            )
        target = cls(name, program, process)
        deadline = time.monotonic() + PATIENCE
        while not _listens(program.port):
            if process.poll() is not None or time.monotonic() > deadline:
                target.stop()
                raise NotInstalled(f"it does not start: {(log.read_text(errors='replace').strip() or '?')[-300:]!r}")
            time.sleep(0.05)
        return target

    def pause(self) -> None:
        """Keep it from running."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and all that it started."""
        for number in (signal.SIGCONT, signal.SIGTERM):
            _signal(self.process.pid, number)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            pass
        _signal(self.process.pid, signal.SIGKILL)
        self.process.wait(15)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _environment() -> dict[str, str]:
    """Ours, without what would make a Python slower or another one than a user has."""
    ours = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("RELAYD_")}


# --- relayd, and the floor


def relayd(folder: Path, upstream: int) -> Program:
    """relayd of this checkout: authentication, limits of every kind, SQLite, books and access log on."""
    key, port = mint(os.urandom), free_port()
    # relayd watches the tree and the directory that it is in: a log there would wake the watcher with each line.
    folder = folder / "etc" / "relayd"
    for name in ("accounts.d", "keys.d"):
        (folder / name).mkdir(parents=True)
    (folder / "secret").write_text("sk-ant-bench")
    (folder / "relay.toml").write_text(
        f'schema = 1\nrealm = "bench"\n[server]\nlisten = ["127.0.0.1:{port}"]\n[admin]\nlisten = ""\n'
        '[upstream]\nmodels_every = "0s"\n'
    )
    (folder / "keys.d" / "bench.toml").write_text(
        f'hashes = [{{ sha256 = "{key_hash(key)}" }}]\n[limits]\nconcurrency = 100000\n'
        'rate = { requests = 1000000000, window = "1m" }\ntokens_per_minute = 1000000000000\n'
        'daily_requests = 1000000000\ndaily_cost = "1000000"\n'
    )
    (folder / "accounts.d" / "up.toml").write_text(
        f'kind = "api-key"\nbase_url = "http://127.0.0.1:{upstream}"\n[credential]\nfile = "{folder / "secret"}"\n'
    )
    # pip compiles what it installs; a start that has to do so takes longer, and more memory.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "relayd")], check=False)
    used = "import relayd.daemon.run, re2"
    subprocess.run([sys.executable, "-c", used], check=True, env={**_environment(), "PYTHONPATH": str(ROOT)})
    commit = first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return Program(
        title=f"relayd {__version__}",
        command=(sys.executable, "-m", "relayd", "run", "--config", str(folder)),
        port=port,
        environment={
            "PYTHONPATH": str(ROOT),
            "RELAYD_CREDENTIALS": str(folder),
        },
        path="/api/v1/messages",
        headers={"x-api-key": key},
        notes=f"commit {commit}; key checked, five limits counted and every call booked in SQLite, access log",
    )


def nginx(folder: Path, upstream: int) -> Program:
    """nginx as a plain reverse proxy, which checks and counts nothing: the floor."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise NotInstalled("no nginx on the PATH (apt install nginx-light)")
    port = free_port()
    places = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; worker_rlimit_nofile 32768; pid {folder}/pid; error_log {folder}/error warn;
events {{ worker_connections 16384; }}
http {{
  {places} access_log {folder}/access; client_max_body_size 64m; client_body_buffer_size 1m; keepalive_requests 1000000;
  upstream api {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    location / {{ proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
""")
    return Program(
        title=first_line(binary, "-v").rpartition(" ")[2].replace("/", " "),
        command=(binary, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error")),
        port=port,
        environment={},
        headers={"x-api-key": "sk-ant-bench"},
        notes="one worker, upstream connections kept, proxy_buffering off, access log; checks and counts nothing",
    )


# --- peers


def _npm(folder: Path, package: str, **held: str) -> Path:
    """A package of npm, installed in `folder`. `held`: versions of what it depends on. Raises: NotInstalled."""
    place = folder / "node_modules" / package
    if not place.exists():
        (folder / "package.json").write_text(json.dumps({"private": True, "overrides": held}))
        _install(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", package])
    return place


def _install(command: list[str]) -> None:
    name = "npm" if command[0] == "npm" else "pip"
    if shutil.which(command[0]) is None:
        raise NotInstalled(f"no {name} on the PATH")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"`{name} install` did not end within 10 minutes") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["?"]
        raise NotInstalled(f"`{name} install` failed: {' '.join(said[0].split())[:200]}")


def _version(place: Path) -> str:
    found: str = json.loads((place / "package.json").read_text())["version"]
    return found


def portkey(folder: Path, upstream: int) -> Program:
    """Portkey's gateway, from npm, on the web server of its own repository: on newer ones each stream is a 500.

    Source: issue 1389 of Portkey-AI/gateway ("immutable"); patches/ there names the version.
    """
    held = {"@hono/node-server": "1.13.5", "hono": "4.9.7"}
    place, port = _npm(folder, "@portkey-ai/gateway", **held), free_port()
    return Program(
        title=f"Portkey {_version(place)}",
        command=("node", str(place / "build" / "start-server.js"), f"--port={port}", "--headless"),
        port=port,
        environment={"NODE_ENV": "production"},
        headers={
            "x-api-key": "sk-ant-bench",
            "x-portkey-provider": "anthropic",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
        },
        notes=f"Node {first_line('node', '-v')}, headless, @hono/node-server 1.13.5; checks no key, counts nothing",
    )


def litellm(folder: Path, upstream: int) -> Program:
    """LiteLLM's proxy, from PyPI, in a virtual environment of its own."""
    python, port = folder / "venv" / "bin" / "python", free_port()
    if not (folder / "venv" / "bin" / "litellm").exists():
        _install([sys.executable, "-m", "venv", str(folder / "venv")])
        _install(
            [str(python), "-m", "pip", "install", "-q", "uv"]
        )  # which finds what fits together in seconds; pip takes minutes
        _install([str(python), "-m", "uv", "pip", "install", "-q", "--python", str(python), "litellm[proxy]"])
    settings = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"anthropic/{MODEL}",
                    "api_base": f"http://127.0.0.1:{upstream}",
                    "api_key": "sk-ant-bench",
                },
            }
        ],
        "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
        "general_settings": {"master_key": "sk-bench"},
    }
    (folder / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    version = first_line(str(python), "-c", "import importlib.metadata as m; print(m.version('litellm'))")
    command = (
        "--config",
        str(folder / "config.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    )
    return Program(
        title=f"LiteLLM {version}",
        command=(str(folder / "venv" / "bin" / "litellm"), *command),
        port=port,
        environment={
            "HOME": str(folder),
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches its prices from the network when it starts
        },
        headers={"x-api-key": "sk-bench"},
        notes="one Uvicorn worker, LITELLM_MODE=PRODUCTION, LITELLM_LOG=ERROR; master key checked, no database",
    )


def code_router(folder: Path, upstream: int) -> Program:
    """claude-code-router, from npm."""
    place, port = _npm(folder, "@musistudio/claude-code-router"), free_port()
    provider = {
        "name": "up",
        "api_base_url": f"http://127.0.0.1:{upstream}/v1/messages",
        "api_key": "sk-ant-bench",
        "models": [MODEL],
        "transformer": {"use": ["Anthropic"]},
    }
    config = folder / ".claude-code-router"
    config.mkdir(exist_ok=True)
    (config / "config.json").write_text(
        json.dumps(
            {
                "PORT": port,
                "HOST": "127.0.0.1",
                "APIKEY": "sk-bench",
                "LOG": False,
                "NON_INTERACTIVE_MODE": True,
                "Providers": [provider],
                "Router": {"default": f"up,{MODEL}"},
            }
        )
    )
    command = next((place / name for name in ("dist/cli.js", "dist/main/cli.js") if (place / name).exists()), None)
    if command is None:
        raise NotInstalled(f"version {_version(place)} has no command that is known here")
    return Program(
        title=f"claude-code-router {_version(place)}",
        command=("node", str(command), "start"),
        port=port,
        environment={"HOME": str(folder), "NODE_ENV": "production"},
        headers={"x-api-key": "sk-bench"},
        model=f"up,{MODEL}",
        notes=f"Node {first_line('node', '-v')}, Anthropic transformer, log off; key checked, counts nothing",
    )


def relay_service(folder: Path, upstream: int) -> Program:
    """claude-relay-service, which is handed out as a repository and an image."""
    _npm(folder, "claude-relay-service")
    raise NotInstalled("there is a package of that name now, which this benchmark does not know how to start")


TARGETS: Mapping[str, Make] = {
    "relayd": relayd,
    "nginx": nginx,
    "portkey": portkey,
    "claude-code-router": code_router,
    "litellm": litellm,
    "claude-relay-service": relay_service,
}
