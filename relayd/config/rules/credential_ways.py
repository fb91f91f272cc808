"""Credential rules: the ways on which a secret would be sent in clear, or to a place that only the tree names.

Rule: pure. What depends on the node (which directories it has, which origins it permits) is in secret_files.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from relayd.config.model.addresses import is_loopback
from relayd.config.problems.problem import Problem
from relayd.config.rules.cross_file import Parsed
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import Account, Relay


def credential_way_problems(files: Sequence[Parsed]) -> Iterator[Problem]:
    """Everything of it. Says nothing while relay.toml is not understood."""
    file = next((file for file in files if isinstance(file.noun, Relay)), None)
    if file is None:
        return
    yield from _password(file)
    for place in files:
        if isinstance(place.noun, Account) and ACCOUNT_KINDS[place.noun.kind].has_credential:
            yield from _proxied(place, file.noun)


def _proxied(file: Parsed, relay: Relay) -> Iterator[Problem]:
    """A proxy on the way to this machine. It would be asked in clear for http, and for a name that means itself."""
    account: Account = file.noun
    if not account.proxy:
        return
    targets = {"base_url": account.base_url or relay.upstream.base_url}
    if ACCOUNT_KINDS[account.kind].refreshes:
        targets["[oauth].token_url"] = relay.oauth.token_url
    for key, url in targets.items():
        if is_loopback(urlsplit(url).hostname or ""):
            message = f"proxy: {key} is this machine, and the proxy would be sent the credential on the way to it"
            hint = "take the proxy out, or use an https address of another machine"
            yield file.document.problem("E-PROXY-CLEARTEXT", ("proxy",), message, hint=hint, secret=True)


def _password(file: Parsed) -> Iterator[Problem]:
    """A password that the tree names, for a store on another machine that the tree names."""
    state = file.noun.state
    if state.password_file and is_remote(state.url):
        message = "state.password_file: the tree may not have a password sent to a store on another machine"
        hint = "on the nodes set RELAYD_STATE_URL, and RELAYD_STATE_PASSWORD_FILE or RELAYD_STATE_PASSWORD"
        yield file.problem("E-STATE-PASSWORD", ("state", "password_file"), message, hint=hint)


def is_remote(state_url: str) -> bool:
    """Whether a state URL, as `addresses.state_url` takes it, leads to another machine."""
    scheme, _, rest = state_url.partition("://")
    if not scheme.startswith("redis"):
        return False
    hosts = rest.partition("?")[0].partition("/")[0].rpartition("@")[2].split(",")
    return not all(is_loopback(urlsplit(f"//{host}").hostname or "") for host in hosts)
