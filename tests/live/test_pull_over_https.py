"""Pulling over https: a real TLS server with git's plain protocol, a token, and a server that tells it on."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import random
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trustme
from daemon import write_tree

from relayd.config.source.source_url import parse_source
from relayd.config.source.tree import Tree
from relayd.daemon.source.build import build_source
from relayd.daemon.source.git_child import PullError
from relayd.daemon.source.keeper import SourceKeeper
from relayd.daemon.source.reader import MirrorReader
from relayd.daemon.source.settings import SourceSettings

TOKEN = "deploy:tok-3b1f-never-shown"
BASIC = base64.b64encode(TOKEN.encode()).decode()


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files to whoever has the token; tells anybody else what was presented."""

    def do_GET(self) -> None:
        presented = self.headers.get("authorization", "")
        if presented == f"Basic {BASIC}" and "moved" not in self.path:
            super().do_GET()
            return
        moved = "moved" in self.path
        body = f"refused: {presented} {TOKEN}\n".encode()
        self.send_response(302 if moved else 403)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        if moved:
            self.send_header("location", self.path.replace("moved", "origin"))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing: the tests look at what git says."""


@attrs.frozen
class Web:
    """A server on loopback. `authority`: the certificate that vouches for it."""

    place: Path
    port: int
    authority: Path


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    place = tmp_path_factory.mktemp("https")
    authority = trustme.CA()
    (place / "ca.pem").write_bytes(authority.cert_pem.bytes())
    tree, bare = write_tree(place), place / "origin.git"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false", "-C"]
    subprocess.run(["git", "init", "--quiet", "-b", "main", str(tree)], check=True)
    subprocess.run([*git, str(tree), "add", "--all"], check=True)
    subprocess.run([*git, str(tree), "commit", "--quiet", "-m", "one"], check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", str(tree), str(bare)], check=True)
    subprocess.run([*git, str(bare), "update-server-info"], check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    handler = functools.partial(_Handler, directory=str(place))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Web(place, server.server_address[1], place / "ca.pem")
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def node(
    web: Web, place: Path, *, token: str = TOKEN, path: str = "origin.git"
) -> Iterator[tuple[SourceKeeper, MirrorReader]]:
    key = place / "token"
    key.write_text(f"{token}\n")
    at = parse_source(f"git+https://localhost:{web.port}/{path}#main")
    settings = SourceSettings(at=at, directory=place / "source", key=key)
    environ = {"PATH": "/usr/bin:/bin", "GIT_SSL_CAINFO": str(web.authority)}
    made = build_source(settings, environ, place, lambda: 0.0, random.Random(1))
    try:
        yield made
    finally:
        made[0].mirror.close()


async def test_a_token_opens_the_repository(web: Web, tmp_path: Path) -> None:
    with node(web, tmp_path) as (keeper, reader):
        assert (await keeper.mirror.pull()).moved
        tree = reader.read()
        assert isinstance(tree, Tree)
        assert "relay.toml" in tree.files


@pytest.mark.parametrize("path", ["origin.git", "moved.git"])
async def test_neither_a_token_nor_what_a_server_says_of_it_is_told_on(web: Web, tmp_path: Path, path: str) -> None:
    token = "deploy:another" if path == "origin.git" else TOKEN
    with node(web, tmp_path, token=token, path=path) as (keeper, _), pytest.raises(PullError) as refused:
        await keeper.mirror.pull()

    told = str(refused.value)
    assert "40" in told or "30" in told or "redirect" in told, told
    for secret in ("another", TOKEN, TOKEN.partition(":")[2], BASIC):
        assert secret not in told
    assert token not in repr(keeper)


async def test_a_certificate_that_nobody_vouches_for_is_refused(web: Web, tmp_path: Path) -> None:
    stranger = attrs.evolve(web, authority=Path("/etc/ssl/certs/ca-certificates.crt"))
    with node(stranger, tmp_path) as (keeper, _), pytest.raises(PullError, match="certificate"):
        await keeper.mirror.pull()
