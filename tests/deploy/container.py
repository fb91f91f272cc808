"""A container without an engine: namespaces, a read-only root, volumes, a user without capabilities.

Rule: what is done here is what an engine does by the words of a Dockerfile and a compose file, and nothing else is
read. The programs are this machine's, for base images cannot be had everywhere; relayd lies where the image has it.

Run by itself it is the first process in the namespaces: `unshare ... python container.py SPEC`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Spec = dict[str, Any]
USER = 65532
UNSHARE = ["unshare", "--user", f"--map-user={USER}", f"--map-group={USER}", "--keep-caps", "--mount", "--net"]
POWERLESS = ["setpriv", "--bounding-set=-all", "--ambient-caps=-all", "--inh-caps=-all", "--no-new-privs"]


def instructions(dockerfile: str, stage: str) -> dict[str, list[str]]:
    """What a stage of a Dockerfile says, by instruction."""
    lines = [line for line in dockerfile.split("\n") if not line.lstrip().startswith("#")]
    found: dict[str, list[str]] = {}
    inside = False
    for line in "\n".join(lines).replace("\\\n", " ").split("\n"):
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            inside = rest.endswith(f" AS {stage}")
        elif name and inside:
            found.setdefault(name, []).append(rest.strip())
    return found


def environment(stage: dict[str, list[str]]) -> dict[str, str]:
    return dict(word.split("=", 1) for line in stage["ENV"] for word in shlex.split(line))


def exec_form(words: str) -> list[str]:
    """The JSON list of words in ENTRYPOINT, CMD and HEALTHCHECK."""
    return list(json.loads(words[words.index("[") :]))


def run_in_container(spec: Spec) -> dict[str, Any]:
    """Does in a new container what `spec` says, and tells what came of it."""
    words = [*UNSHARE, sys.executable, __file__, json.dumps(spec)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main(spec: Spec) -> None:
    loopback_up()
    root = make_root(spec)
    redis = start(root, spec["redis"], {"PATH": os.environ["PATH"]})
    relayd = start(root, spec["command"], spec["environment"])
    began = time.monotonic()
    while healthy := run(root, spec["health"], spec["environment"]).returncode:
        assert relayd.poll() is None, "relayd ended"
        assert time.monotonic() - began < 60, "not healthy in a minute"
        time.sleep(0.1)
    told = {
        "healthy": healthy,
        "commands": [
            [done.returncode, done.stdout + done.stderr]
            for done in (run(root, words, spec["environment"]) for words in spec["commands"])
        ],
        "status": Path(f"/proc/{relayd.pid}/status").read_text(),
    }
    for process in (relayd, redis):
        process.terminate()
        assert process.wait(60) == 0, "did not end well"
    told["unhealthy"] = run(root, spec["health"], spec["environment"]).returncode
    print(json.dumps(told))


def loopback_up() -> None:
    """Source: netdevice(7), SIOCGIFFLAGS and SIOCSIFFLAGS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(sock, 0x8913, asked))[1]
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh", b"lo", flags | 1))


def make_root(spec: Spec) -> str:
    """An empty root with this machine's programs and what `spec` adds, all of it read-only, and the volumes."""
    root = Path(spec["place"])
    mount("tmpfs", "none", root)
    for name in ("bin", "lib", "lib64", "sbin", "usr"):
        if (link := Path("/", name)).is_symlink():
            (root / name).symlink_to(link.readlink())
        elif link.exists():
            bind(str(link), f"{root}/{name}")
    for path in [*spec["directories"], *spec["tmpfs"]]:
        Path(f"{root}{path}").mkdir(parents=True, exist_ok=True)
    for path, text in spec["files"].items():
        file = Path(f"{root}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    for path, source in {**spec["binds"], **spec["read_only_binds"]}.items():
        bind(source, f"{root}{path}")
    for path in spec["read_only_binds"]:
        subprocess.run(["mount", "-o", "remount,bind,ro", f"{root}{path}"], check=True)
    for name in ("proc", "dev"):
        bind(f"/{name}", f"{root}/{name}")
    for path, options in spec["tmpfs"].items():
        mount("tmpfs", "none", Path(f"{root}{path}"), options)
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)
    return str(root)


def bind(source: str, target: str) -> None:
    Path(target).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--rbind", source, target], check=True)


def mount(kind: str, source: str, target: Path, options: str = "rw") -> None:
    subprocess.run(["mount", "-t", kind, "-o", options or "rw", source, target], check=True)


def start(root: str, words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(within(root, words, environment), stdout=sys.stderr, env=environment)


def run(root: str, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        within(root, words, environment), capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def within(root: str, words: list[str], environment: dict[str, str]) -> list[str]:
    enter = ["/usr/sbin/chroot", root, "/usr/bin/env", "-C", environment.get("HOME", "/")]
    return [*enter, *POWERLESS, *words]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
