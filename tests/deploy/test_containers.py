"""The image and the compose file: linted, and run as they say, as far as that goes without an engine.

`tests/deploy/build_image.py` builds and runs the image itself, by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from container import USER, can_unshare, environment, exec_form, instructions, run_in_container
from daemon import write_tree
from redis_server import find_server

from relayd.config.snapshot import Server

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
COMPOSE = ROOT / "deploy/compose/compose.yaml"
TOOLS = Path(sys.executable).parent

needs_namespaces = pytest.mark.skipif(not (os.environ.get("CI") or can_unshare()), reason="no user namespaces here")


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def relayd_image() -> dict[str, list[str]]:
    return instructions(DOCKERFILE.read_text(), "plain")


def test_the_dockerfile_has_no_faults() -> None:
    done = subprocess.run([TOOLS / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    subprocess.run(["sh", "-n", DOCKERFILE.with_name("unpack")], check=True)


def test_the_compose_file_keeps_to_its_schema() -> None:
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_copied_into_the_image_is_there_and_nothing_else_gets_near_it() -> None:
    text = DOCKERFILE.read_text()
    copied = [word for line in text.split("\n") if line.startswith("COPY ") and "--from=" not in line
              for word in line.split()[1:-1]]  # fmt: skip
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "deploy/compose" in ignored, "where people put their tree and their identity"
    passed = [line[1:] for line in ignored if line.startswith("!")]
    shipped = {name for name in copied if name not in passed}
    assert all((ROOT / name).exists() for name in copied)
    assert all(any(name.startswith(f"{each}/") for each in passed) for name in shipped), shipped
    assert set(passed) <= set(copied)


def test_everything_that_is_installed_is_locked() -> None:
    for line in instructions(DOCKERFILE.read_text(), "environment")["RUN"]:
        for step in line.split("&&"):
            if " install " in step:
                assert "--require-hashes" in step or "--no-index" in step, step


def test_compose_gives_nodes_time_to_drain_and_redis_a_policy_that_loses_nothing() -> None:
    services = compose()["services"]
    for name in ("relayd-a", "relayd-b", "caddy"):
        assert services[name]["stop_grace_period"] == "11m"
    assert Server().drain_timeout < 11 * 60 - 30
    redis = services["redis"]["command"]
    assert redis[redis.index("--maxmemory-policy") + 1] == "noeviction"
    assert redis[redis.index("--appendonly") + 1] == "yes"
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert ":latest" not in service["image"], name
        assert ":" in service["image"], name


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="relayd-container-") as name:
        yield Path(name)


@needs_namespaces
def test_a_node_of_compose_runs_read_only_without_power_and_is_well(place: Path) -> None:
    image, service = relayd_image(), compose()["services"]["relayd-a"]
    assert image["USER"] == [f"{USER}:{USER}"]
    tree = write_tree(place, relay="[admin]\n")
    for name in ("root", "state", "data"):
        (place / name).mkdir()
    volumes = [one if isinstance(one, dict) else dict(zip(("source", "target"), one.split(":"), strict=True))
               for one in service["volumes"]]  # fmt: skip
    sources = {"${RELAY_TREE:-./tree}": str(tree), "state-a": str(place / "state")}
    bind = {one["target"]: sources[one["source"]] for one in volumes}
    read_only = {one["target"] for one in volumes if one.get("read_only")}
    redis = compose()["services"]["redis"]
    packages = {f"/opt/relayd/packages/{n}": path for n, path in enumerate(_site_packages())}
    programs = {"/opt/relayd/source": str(ROOT), sys.base_prefix: sys.base_prefix, **packages}
    programs["/opt/redis"] = str(Path(find_server()).parent)
    told = run_in_container(
        {
            "place": str(place / "root"),
            "files": {
                "/opt/relayd/bin/relayd": _script(["/opt/relayd/source", *packages], "-m relayd"),
                "/opt/relayd/bin/python": _script([]),
                "/etc/hosts": "127.0.0.1 localhost redis\n",
                "/etc/passwd": f"relayd:x:{USER}:{USER}::/var/lib/relayd:/usr/sbin/nologin\n",
            },
            "directories": ["/run/secrets"],
            "binds": {path: source for path, source in bind.items() if path not in read_only}
            | {volume.split(":")[1]: str(place / "data") for volume in redis["volumes"]},
            "read_only_binds": {path: source for path, source in bind.items() if path in read_only} | programs,
            "tmpfs": dict((*entry.split(":", 1), "")[:2] for entry in service["tmpfs"]),
            "redis": [f"/opt/redis/{Path(find_server()).name}", *redis["command"][1:], "--dir", "/data"],
            "command": [*exec_form(image["ENTRYPOINT"][0]), *exec_form(image["CMD"][0])],
            "health": exec_form(image["HEALTHCHECK"][0]),
            "environment": environment(image) | service["environment"],
            "commands": [
                ["relayd", "status", "--json"],
                ["touch", "/etc/relayd/tree/x"],
                ["touch", "/etc/x"],
                ["touch", "/var/lib/relayd/x"],
                ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 3001)).close()"],
            ],
        }
    )
    status, in_tree, in_root, in_state, admin = told["commands"]
    assert status[0] == 0, status[1]
    document = json.loads(status[1])
    assert document["well"]
    assert document["listen"] == ["http://0.0.0.0:3000"]
    assert "Read-only" in in_tree[1]
    assert "Read-only" in in_root[1]
    assert (in_state[0], admin[0]) == (0, 0)
    assert "CapEff:\t0000000000000000" in told["status"]
    assert "CapBnd:\t0000000000000000" in told["status"]
    assert told["unhealthy"] != 0, "the health check has to notice that nobody is there"
    assert list((place / "data").iterdir()), "nothing that Redis would find again"
    assert not (place / "state/relayd.db").exists(), "what is counted is in Redis"
    assert (place / "state/side.db").exists(), "what is the node's own lies on its volume"


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def _script(path: list[str], more: str = "") -> str:
    """This Python, under a name that it has in the image."""
    return f'#!/bin/sh\nPYTHONPATH="{":".join(path)}" exec "{os.path.realpath(sys.executable)}" {more} "$@"\n'
