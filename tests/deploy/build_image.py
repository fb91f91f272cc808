"""Builds the image of deploy/docker and runs it, without an engine: by hand, as root, some ten minutes.

    apt-get install --no-install-recommends buildah mmdebstrap
    python tests/deploy/build_image.py

buildah builds it. The base image is made here from Debian's packages, under the name that the Dockerfile has for it,
since a registry of images may be out of reach. Then each target runs as user 65532 without a capability, on a
read-only root: it becomes healthy, is well, drains and ends; the one with git fetches a tree from a repository.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from container import USER, environment, exec_form, instructions

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
BUILDAH = ["buildah", "--storage-driver", "vfs"]
SIMULATED = {"relay.toml": 'schema = 1\nrealm = "test"\n', "accounts.d/a.toml": 'kind = "simulator"\n'}


def main() -> None:
    if os.environ.get("RELAYD_UNSHARED") != "yes":  # mounts of this script are its own
        words = ["unshare", "--mount", "--net", sys.executable, *sys.argv, "run"]
        if sys.argv[1:] != ["run"]:
            make_base(base_image())
            for target in ("relayd", "pulling"):
                build(target)
        sys.exit(subprocess.run(words, env={**os.environ, "RELAYD_UNSHARED": "yes"}, check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for target in ("relayd", "pulling"):
        with tempfile.TemporaryDirectory() as place:
            try_image(target, Path(place))


def base_image() -> str:
    return DOCKERFILE.read_text().partition("\nFROM ")[2].split()[0]


def make_base(name: str) -> None:
    """A Debian of the suite that the image's tag begins with."""
    suite = name.partition(":")[2].partition("-")[0]
    with tempfile.TemporaryDirectory() as place:
        root = f"{place}/debian.tar"
        subprocess.run(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", suite, root], check=True)
        container = output(*BUILDAH, "from", "scratch")
        subprocess.run([*BUILDAH, "add", "--quiet", container, root, "/"], check=True)
        subprocess.run([*BUILDAH, "commit", "--quiet", "--rm", container, f"docker.io/library/{name}"], check=True)


def build(target: str) -> None:
    began = time.monotonic()
    words = ["--isolation", "chroot", "--pull-never", "--format", "docker", "--layers", "--target", target]
    certificates = "/etc/ssl/certs:/etc/ssl/certs:ro"  # this machine may trust more than Debian does
    subprocess.run(
        [*BUILDAH, "bud", *words, "-v", certificates, "-f", DOCKERFILE, "-t", f"relayd-{target}", ROOT], check=True
    )
    print(f"built {target} in {time.monotonic() - began:.0f} s")


def try_image(target: str, place: Path) -> None:
    container = output(*BUILDAH, "from", "--pull-never", f"localhost/relayd-{target}")
    root = output(*BUILDAH, "mount", container)
    print(f"{target}: {output('du', '-sm', root).split()[0]} MiB")
    try:
        with mounted(Path(root), place):
            stage = instructions(DOCKERFILE.read_text(), "plain")
            run_image(Path(root), stage, {} if target == "relayd" else source(Path(root), place))
    finally:
        subprocess.run([*BUILDAH, "rm", container], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def mounted(root: Path, place: Path) -> Iterator[None]:
    """The image's root, read-only, with a tree and the two places that are written."""
    (place / "state").mkdir(mode=0o700)
    os.chown(place / "state", USER, USER)
    for name, text in SIMULATED.items():
        (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "tree" / name).write_text(text)
    place.chmod(0o755)
    mount("--bind", root, root)
    mount("-o", "remount,bind,ro", root)
    mount("-t", "proc", "proc", root / "proc")
    mount("--bind", "/dev", root / "dev")
    mount("--bind", place / "state", root / "var/lib/relayd")
    mount("--bind", place / "tree", root / "etc/relayd/tree")
    mount("-t", "tmpfs", "-o", f"mode=0700,uid={USER},gid={USER}", "none", root / "run/relayd")
    mount("-t", "tmpfs", "none", root / "tmp")
    try:
        yield
    finally:
        subprocess.run(["umount", "--recursive", root], check=True)


def source(root: Path, place: Path) -> dict[str, str]:
    """A repository with the tree, where the image's user reaches it; its settings."""
    script = "git init -q -b main && git add . && git -c user.name=x -c user.email=x@example.com commit -qm one"
    subprocess.run(["sh", "-c", script], cwd=place / "tree", check=True)
    subprocess.run(["git", "clone", "-q", "--bare", place / "tree", place / "state/relay.git"], check=True)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", place / "state/relay.git"], check=True)
    return {"RELAYD_SOURCE": "git+file:///var/lib/relayd/relay.git#main", "RELAYD_CONFIG": "/var/lib/relayd"}


def run_image(root: Path, stage: dict[str, list[str]], more: dict[str, str]) -> None:
    settings = environment(stage) | more

    def inside() -> None:
        os.chroot(root)
        os.chdir(stage["WORKDIR"][0])
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(found(words), env=settings, preexec_fn=inside, check=False)

    def found(words: tuple[str, ...]) -> list[str]:
        return [f"/opt/relayd/bin/{words[0]}", *words[1:]]

    words = (*exec_form(stage["ENTRYPOINT"][0]), *exec_form(stage["CMD"][0]))
    daemon = subprocess.Popen(found(words), env=settings, preexec_fn=inside)
    try:
        began = time.monotonic()
        wait_for(lambda: run(*exec_form(stage["HEALTHCHECK"][0])).returncode == 0)
        print(f"healthy after {time.monotonic() - began:.1f} s")
        assert run("relayd", "status").returncode == 0
        assert run("relayd", "doctor", "--offline").returncode == 0
        assert run("python", "-c", "open('/etc/x', 'w')").returncode == 1
    finally:
        daemon.terminate()
        assert daemon.wait(60) == 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not healthy in a minute"
        time.sleep(0.2)


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def output(*words: str) -> str:
    return subprocess.check_output(words, text=True).strip()


if __name__ == "__main__":
    main()
