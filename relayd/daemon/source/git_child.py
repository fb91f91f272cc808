"""Git child: a git command in a process of its own, with a fixed command line and an environment made here.

Rule: nothing of the user's, the machine's or the repository's git config counts, no hook, filter, pager, editor,
askpass or credential helper is started, and no protocol but the source's is spoken. A child that is cancelled or late
is ended with all that it has started.

Theory: the fixed settings are in a config file of our own instead of on the command line, because git hands some of
them on only so: to the upload-pack of a local repository, say. A token is in the environment, which other users do not
see.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path

import attrs
import trio

from relayd.daemon.log import scrub
from relayd.daemon.source.settings import SourceSettings
from relayd.noun import noun

GRACE = 2.0  # s to end by itself, so that it takes its temporary files away
LONGEST_ERROR = 300  # characters that are shown of what git says
CONFIG = """\
# Made by relayd at each start: git's settings for pulling the config tree.
[safe]
	directory = *
[core]
	hooksPath = /dev/null
	fsmonitor = false
[protocol]
	allow = never
[protocol "{scheme}"]
	allow = always
[http]
	followRedirects = false
	lowSpeedLimit = 1
	lowSpeedTime = 30
[fetch]
	recurseSubmodules = false
[transfer]
	bundleURI = false
[gc]
	autoDetach = false
[credential]
	helper =
[gpg "x509"]
	program = /bin/false
"""

# What a child gets of our environment: where programs lie, and how this machine reaches the network.
_PASSED = (
    "PATH", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "https_proxy", "HTTPS_PROXY",
    "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY",
)  # fmt: skip
_SSH = (
    "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o UpdateHostKeys=no -o ClearAllForwardings=yes"
    " -o PermitLocalCommand=no -o ConnectTimeout=15 -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
)


class PullError(Exception):
    """Git could not do what it was to do. The text is for people, one line, without a secret."""


@noun(kw_only=True)
class GitChild:
    """Runs git.

    Args:
        token: what may stand in front of https; shown nowhere. "" for none.
    """

    settings: SourceSettings
    environ: Mapping[str, str] = attrs.field(repr=False)
    token: str = attrs.field(default="", repr=False)

    @property
    def config(self) -> Path:
        """Git's settings."""
        return self.settings.directory / "gitconfig"

    def config_text(self) -> str:
        """What is in that file."""
        return CONFIG.format(scheme=self.settings.at.scheme)

    async def run(self, *words: str, timeout: float, more: Mapping[str, str] | None = None) -> bytes:
        """What git prints. `more`: environment for this command. Raises: PullError."""
        command = ["git", "--no-replace-objects", "-C", str(self.settings.mirror), *words]
        try:
            with trio.fail_after(timeout):
                done = await trio.run_process(
                    command,
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env={**self.environment(), **(more or {})},
                    start_new_session=True,
                    deliver_cancel=_end,
                )
        except trio.TooSlowError:
            raise PullError(f"git {words[0]} took longer than {timeout:g} s") from None
        except FileNotFoundError:
            raise PullError("there is no git program on this machine") from None
        except OSError as error:
            raise PullError(f"git cannot be run: {(error.strerror or str(error)).lower()}") from None
        if done.returncode:
            raise PullError(self._complaint(done.stderr) or f"git {words[0]} failed")
        return done.stdout

    def environment(self) -> dict[str, str]:
        """All that a child knows of this machine."""
        own = {name: self.environ[name] for name in _PASSED if name in self.environ}
        own |= {
            "HOME": str(self.settings.directory),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(self.config),
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": self.settings.at.scheme,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",  # a local repository that lacks objects must not make us fetch them
            "GIT_SSH_VARIANT": "ssh",
            "GIT_SSH_COMMAND": self._ssh(),
        }
        if self.token:
            user, colon, _ = self.token.partition(":")
            pair = self.token if colon and user else f"x-access-token:{self.token}"
            basic = base64.b64encode(pair.encode()).decode()
            own |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{self.settings.at.url}.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
            }
        return own

    def _ssh(self) -> str:
        """The words with which git starts ssh, through a shell: every one of them is ours, and quoted."""
        words = [_SSH]
        if self.settings.key is not None and self.settings.at.scheme == "ssh":
            words.append(f"-o IdentitiesOnly=yes -o IdentityAgent=none -i {shlex.quote(str(self.settings.key))}")
        if self.settings.known_hosts is not None:
            hosts = shlex.quote(f"UserKnownHostsFile={self.settings.known_hosts}")
            words.append(f"-o {hosts} -o GlobalKnownHostsFile=/dev/null")
        return " ".join(words)

    def _complaint(self, said: bytes) -> str:
        """What git or ssh ended with, on one line. A remote's words are anybody's: no control character passes."""
        lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
        causes = [line for line in lines if _CAUSE.search(line)] or lines[:1]
        text = re.sub(r"^(?:fatal|error|ERROR): ", "", causes[0]) if causes else ""
        plain = "".join(char if char.isprintable() else " " for char in text)[:LONGEST_ERROR]
        for secret in (self.token, self.token.partition(":")[2]):
            plain = plain.replace(secret, "[secret]") if secret else plain
        return scrub(plain)


# The line that says why, among what git and ssh say besides.
_CAUSE = re.compile(
    r"Permission denied|Host key verification|Could not resolve|Connection |timed out|No route|[Nn]ot found"
    r"|couldn't find remote ref|No space left|does not (?:exist|appear)|dubious|unable to|Authentication|401|403"
)


async def _end(process: trio.Process) -> None:
    """End a child and its children: by itself if it can."""
    _signal(process, signal.SIGTERM)
    with trio.move_on_after(GRACE):
        await process.wait()
    _signal(process, signal.SIGKILL)


def _signal(process: trio.Process, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def read_token(settings: SourceSettings) -> str:
    """The token for https: the first line of the key's file; "" where there is none. Raises: ValueError."""
    if settings.at.scheme != "https" or settings.key is None:
        return ""
    try:
        return settings.key.read_text(encoding="ascii").partition("\n")[0].strip()
    except (OSError, ValueError):
        raise ValueError(f"RELAYD_SOURCE_KEY: {settings.key}: not a file with a token") from None
