"""Caddy, nginx and HAProxy as processes, with the files of deploy/ on ports and addresses of a test."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import trustme
from ports import free_ports
from waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
SITE, ADMIN_SITE = "relay.example.com", "relay-admin.example.com"  # as the files name them


@attrs.frozen
class Proxy:
    """A proxy that runs. `trust`: for its certificate; `control`: the socket of HAProxy's runtime API."""

    url: str
    trust: ssl.SSLContext
    control: Path | None = None

    def tell(self, command: str) -> str:
        """A command for HAProxy, such as `set server relayd/node1 state drain`; what it answers."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.control))
            sock.sendall(command.encode() + b"\n")
            return sock.makefile().read().strip()


def adapted(path: str, changes: Mapping[str, str]) -> str:
    """A file of deploy/ with some words changed, each of which must be there."""
    text = (DEPLOY / path).read_text()
    for old, new in changes.items():
        assert old in text, f"{path}: {old}"
        text = text.replace(old, new)
    return text


def places(nodes: Sequence[str], admin: str) -> dict[str, str]:
    """The addresses that all three files name, and where they are here: `host:port`."""
    return {"10.0.0.11:3001": admin, "10.0.0.11:3000": nodes[0], "10.0.0.12:3000": nodes[1]}


@contextlib.contextmanager
def caddy(place: Path, nodes: Sequence[str], admin: str) -> Iterator[Proxy]:
    """Caddy, with certificates of its own authority."""
    port, plain = free_ports(2)
    ports, store = f"http_port {plain}\nhttps_port {port}", f"storage file_system {place}"
    own = f"admin off\nlocal_certs\nskip_install_trust\n{ports}\n{store}"
    path = place / "Caddyfile"
    here = places(nodes, admin) | {"health_interval 1s": "health_interval 100ms"}
    path.write_text(f"{{\n{own}\n}}\n" + adapted("caddy/Caddyfile", here))
    with _running(place, "caddy", "run", "--config", str(path), "--adapter", "caddyfile") as wait:
        root = place / "pki" / "authorities" / "local" / "root.crt"
        wait(lambda: root.exists() and root.read_text().endswith("-----END CERTIFICATE-----\n"))
        trust = ssl.create_default_context(cafile=str(root))
        for site in (SITE, ADMIN_SITE):  # each has a certificate of its own, made while others are already served
            wait(lambda site=site: _shakes_hands(port, trust, site))
        yield Proxy(f"https://127.0.0.1:{port}", trust)


@contextlib.contextmanager
def nginx(place: Path, nodes: Sequence[str], admin: str) -> Iterator[Proxy]:
    """The server section in the smallest nginx.conf there is."""
    (port,) = free_ports(1)
    trust = _certificate(place)
    here = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        f"/etc/letsencrypt/live/{SITE}/fullchain.pem": str(place / "site.pem"),
        f"/etc/letsencrypt/live/{SITE}/privkey.pem": str(place / "site.pem"),
    }
    site = adapted("nginx/relayd.conf", places(nodes, admin) | here)
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    log = f"error_log {place}/error.log;"
    frame = f"{user} daemon off; pid {place}/pid; {log} events {{}} http {{ access_log off; {temporary}{site} }}"
    path = place / "nginx.conf"
    path.write_text(frame)
    with _running(place, "nginx", "-p", str(place), "-e", str(place / "error.log"), "-c", str(path)) as wait:
        wait(lambda: _answers(port))
        yield Proxy(f"https://127.0.0.1:{port}", trust)


@contextlib.contextmanager
def haproxy(place: Path, nodes: Sequence[str], admin: str) -> Iterator[Proxy]:
    """HAProxy in the foreground."""
    (port,) = free_ports(1)
    trust = _certificate(place)
    here = {
        "bind :443": f"bind 127.0.0.1:{port}",
        "/etc/haproxy/certs/": str(place / "site.pem"),
        "inter 1s": "inter 100ms",
    }
    path = place / "haproxy.cfg"
    second = f"    server node2 {nodes[1]}\n"
    more = "".join(f"    server node{number} {node}\n" for number, node in enumerate(nodes[2:], start=3))
    text = adapted("haproxy/haproxy.cfg", places(nodes, admin) | here).replace(second, second + more)
    control = place / "control"
    path.write_text(text.replace("global\n", f"global\n    stats socket {control} mode 600 level admin\n", 1))
    with _running(place, "haproxy", "-db", "-f", str(path)) as wait:
        wait(lambda: _answers(port))
        yield Proxy(f"https://127.0.0.1:{port}", trust, control)


def _certificate(place: Path) -> ssl.SSLContext:
    """Write a certificate with its key; who trusts it."""
    authority = trustme.CA()
    authority.issue_cert(SITE, ADMIN_SITE).private_key_and_cert_chain_pem.write_to_path(str(place / "site.pem"))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return trust


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _shakes_hands(port: int, trust: ssl.SSLContext, name: str) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=1) as plain,
        trust.wrap_socket(plain, server_hostname=name),
    ):
        return True
    return False


@contextlib.contextmanager
def _running(place: Path, name: str, *words: str) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """A program for the length of a block. It is given what waits for a condition while the program runs."""
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, f"{name} is not installed (apt-get install {name})"
    home = {**os.environ, "HOME": str(place)}
    with (place / "output").open("wb") as output:
        process = subprocess.Popen([program, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=home)

    def wait(condition: Callable[[], bool]) -> None:
        wait_until(lambda: process.poll() is not None or condition(), name)
        assert process.poll() is None, (place / "output").read_text()

    try:
        yield wait
        wait(lambda: True)
    finally:
        process.terminate()
        process.wait()
