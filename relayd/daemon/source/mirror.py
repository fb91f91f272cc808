"""Mirror: the node's own bare repository of what it has fetched, and the ref of the commit that it has taken.

Rule: `refs/relayd/taken` moves only to a head that core/pull lets pass, or that a person has named. Nothing but that
ref says what runs: what a fetch that failed has left is never looked at. One process has a mirror at a time.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from relayd.config.atomic import replace_file
from relayd.config.source.past import FOLDER, TAKEN
from relayd.core.pull import CommitSignature, Head, HeldHead, is_meant, judge_head
from relayd.daemon.source.git_child import GitChild, PullError
from relayd.noun import noun

FETCHED = "refs/relayd/fetched"
FETCH_TIMEOUT = 60.0  # s for what the network does
VERIFY_TIMEOUT = 120.0  # s; a signature takes about 10 ms
LOCAL_TIMEOUT = 20.0  # s for what git does on this machine
_LONGEST_HOME = 60  # bytes of the directory in which gpg is given a home
_SIGNERS = "signers-"  # a directory of that kind lives as long as a verification
_PGP = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
_GPG_CONF = b"trust-model always\nno-autostart\nno-auto-key-retrieve\n"


@noun(kw_only=True)
class Pulled:
    """What a pull came to.

    Args:
        head: of the branch, as the remote has it.
        taken: what this node has taken, after the pull; "" for nothing yet.
        held: why the head is not what was taken; None when it is.
        moved: another commit was taken.
    """

    head: str
    taken: str
    held: HeldHead | None
    moved: bool


@attrs.define(eq=False, kw_only=True)
class Mirror:
    """Fetches, and takes what may be taken."""

    git: GitChild
    _lock: int = attrs.field(default=-1, init=False)
    _made: bool = attrs.field(default=False, init=False)  # the repository is there
    _verified: tuple[object, list[CommitSignature]] | None = attrs.field(default=None, init=False, repr=False)

    def open(self) -> None:
        """Make what is not there, and the mirror ours. Sync.

        Raises: OSError; ValueError when another process has it.
        """
        settings = self.git.settings
        settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(settings.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{settings.directory}: another relayd pulls into it") from None
        replace_file(self.git.config, self.git.config_text().encode(), mode=0o600)
        settings.mirror.mkdir(mode=0o700, exist_ok=True)
        replace_file(settings.mirror / FOLDER, f"{settings.at.folder}\n".encode(), mode=0o600)
        self._remove_leftovers()

    def close(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def pull(self, meant: Sequence[str] = ()) -> Pulled:
        """Fetch the branch, and take its head if that may be. `meant`: commits that a person has named.

        Raises: PullError; what was taken before is still taken then.
        """
        try:
            head = await self._fetch()
            return await self._take(head, meant)
        except PullError:
            self._made = False
            await trio.to_thread.run_sync(self._remove_leftovers)  # a full disk must not be filled further
            raise

    # --- fetching

    async def _fetch(self) -> str:
        if not self._made:
            await self.git.run("init", "--quiet", "--bare", "--template=", timeout=LOCAL_TIMEOUT)
            self._made = True
        at = self.git.settings.at
        await self.git.run(
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--",
            at.url,
            f"+refs/heads/{at.branch}:{FETCHED}",
            timeout=FETCH_TIMEOUT,
        )
        return await self._commit(FETCHED)

    async def _commit(self, ref: str) -> str:
        """The commit that a ref of ours names; "" for none."""
        found = await self.git.run("for-each-ref", "--format=%(objectname)", ref, timeout=LOCAL_TIMEOUT)
        return found.decode().strip()

    # --- taking

    async def _take(self, commit: str, meant: Sequence[str]) -> Pulled:
        taken = await self._commit(TAKEN)
        if commit == taken:
            return Pulled(head=commit, taken=taken, held=None, moved=False)
        held = None if is_meant(meant, commit) else await self._held(commit, taken)
        if held is not None:
            return Pulled(head=commit, taken=taken, held=held, moved=False)
        old = taken or "0" * len(commit)
        await self.git.run("update-ref", "--create-reflog", TAKEN, commit, old, timeout=LOCAL_TIMEOUT)
        return Pulled(head=commit, taken=commit, held=None, moved=True)

    async def _held(self, commit: str, taken: str) -> HeldHead | None:
        head = Head(
            commit=commit,
            taken=taken,
            onward=not taken or await self._is_ancestor(taken, commit),
            back=bool(taken) and await self._is_ancestor(commit, taken),
            signatures=await self._signatures(commit, taken) if self.git.settings.signers else None,
        )
        return judge_head(head)

    async def _is_ancestor(self, older: str, newer: str) -> bool:
        found = await self.git.run("rev-list", "--max-count=1", older, f"^{newer}", timeout=LOCAL_TIMEOUT)
        return not found.strip()  # everything that the older one has, the newer one has

    async def _signatures(self, commit: str, taken: str) -> list[CommitSignature]:
        """Of every commit that is new, whichever way it came in; of the head alone where none was taken before.

        They are found out once, as long as the head, what is taken and the allowed signers stay the same.
        """
        asked = commit, taken, await trio.to_thread.run_sync(self._signer_stamps)
        if self._verified is None or self._verified[0] != asked:
            self._verified = asked, await self._verify(commit, taken)
        return self._verified[1]

    async def _verify(self, commit: str, taken: str) -> list[CommitSignature]:
        place = await trio.to_thread.run_sync(self._make_place)
        try:
            await trio.to_thread.run_sync(self._gather_signers, place)
            listed = await self.git.run(
                "-c",
                f"gpg.ssh.allowedSignersFile={place}/allowed_signers",
                "log",
                "--no-show-signature",
                "--format=%H %G? %GF",
                *([f"{taken}..{commit}"] if taken else ["--max-count=1", commit]),
                "--",
                timeout=VERIFY_TIMEOUT,
                more={"GNUPGHOME": f"{place}/gnupg"},
            )
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(shutil.rmtree, place, ignore_errors=True))
        return [_signature(line) for line in listed.decode("ascii", "replace").splitlines()]

    def _signer_stamps(self) -> tuple[object, ...]:
        """Whether the files of the allowed signers are those of last time. Raises: PullError."""
        try:
            found = [os.stat(path) for path in self.git.settings.signers]
        except OSError as error:
            raise PullError(f"allowed signers: {error.filename}: {(error.strerror or '').lower()}") from None
        return tuple((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) for one in found)

    def _make_place(self) -> Path:
        """A directory for one verification. Raises: PullError."""
        directory = self.git.settings.directory
        # gpg makes names of sockets in its home, also of those it does not open, and those have 108 bytes: unix(7).
        near = directory if len(os.fsencode(directory)) <= _LONGEST_HOME else None
        try:
            return Path(tempfile.mkdtemp(prefix=_SIGNERS, dir=near))
        except OSError as error:
            raise PullError(f"allowed signers: {error.filename}: {(error.strerror or '').lower()}") from None

    def _gather_signers(self, place: Path) -> None:
        """See to it that ssh-keygen and gpg find the allowed signers there, and nobody else. Raises: PullError."""
        try:
            contents = [path.read_bytes() for path in self.git.settings.signers]
            (place / "allowed_signers").write_bytes(b"\n".join(data for data in contents if _PGP not in data))
            home = place / "gnupg"
            home.mkdir(mode=0o700)
            (home / "gpg.conf").write_bytes(_GPG_CONF)
        except OSError as error:
            raise PullError(f"allowed signers: {error.filename}: {(error.strerror or '').lower()}") from None
        for data in contents:
            if _PGP in data:
                self._import_keys(home, data)

    def _import_keys(self, home: Path, data: bytes) -> None:
        environ = {**self.git.environment(), "GNUPGHOME": str(home)}
        command = ["gpg", "--batch", "--quiet", "--no-autostart", "--import"]
        try:
            done = subprocess.run(
                command, input=data, env=environ, capture_output=True, timeout=LOCAL_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            raise PullError("allowed signers: gpg cannot be run, and they name a PGP key") from None
        if done.returncode:
            raise PullError("allowed signers: gpg does not understand a PGP key in them")

    # --- tidying

    def _remove_leftovers(self) -> None:
        """Take away locks and half files of a git that was killed, or whose disk was full. Nobody else works here."""
        mirror = self.git.settings.mirror
        for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/[0-9a-f][0-9a-f]/tmp_obj_*"):
            for path in mirror.glob(pattern):
                path.unlink(missing_ok=True)
        for place in self.git.settings.directory.glob(f"{_SIGNERS}*"):
            shutil.rmtree(place, ignore_errors=True)


_LINE = re.compile(r"([0-9a-f]{40}(?:[0-9a-f]{24})?) (.) ?(\S*)")


def _signature(line: str) -> CommitSignature:
    """One line of the log. Raises: PullError when git says something that is not understood."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise PullError("git log says what relayd does not understand")
    return CommitSignature(commit=match[1], verdict=match[2], key=match[3])
