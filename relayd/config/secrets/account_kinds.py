"""Account kinds: the one table of what an account may be, and what follows from it.

Rule: data only. Whoever must know something about a kind asks its row; nobody compares names of kinds. A new kind is a
row here and a word of `AccountKindName` in snapshot.py.

Source: Claude Code docs, "Legal and compliance" (OAuth authentication of Free, Pro and Max plans is for the buyer's use
of Anthropic's own applications; third parties may not route requests through it on behalf of their users; API keys
from the console are the supported way).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from relayd.config.snapshot import AccountKindName
from relayd.noun import noun

# The beta that a bearer token of OAuth needs. Source: official SDK (its token providers), API docs.
OAUTH_BETA = b"oauth-2025-04-20"


@noun(kw_only=True)
class CredentialWarning:
    """What an operator should know before using a kind. `code` is stable and starts with `W-`."""

    code: str
    message: str


@noun(kw_only=True)
class AccountKind:
    """One kind of account.

    Args:
        name: as `kind` in the account's file has it.
        header, scheme: the request header that carries the credential, in lower case, and what precedes it there; an
            empty header: the kind has no credential.
        beta: a value that `anthropic-beta` must have besides the client's own; b"" for none.
        prefixes: how such credentials start, as the Claude console, `claude setup-token` and claude.ai issue them.
        refreshes: the credential may be JSON with a refresh token, and relayd keeps its access token fresh.
        in_process: relayd answers itself; there is no upstream, no base_url and no proxy.
        warning: what an operator should know; None for nothing.
    """

    name: AccountKindName
    header: bytes = b""
    scheme: bytes = b""
    beta: bytes = b""
    prefixes: tuple[str, ...] = ()
    refreshes: bool = False
    in_process: bool = False
    warning: CredentialWarning | None = None

    @property
    def has_credential(self) -> bool:
        """Whether an account of this kind needs a credential; another one may not have any."""
        return bool(self.header)


_OAUTH_PERSONAL = CredentialWarning(
    code="W-OAUTH-PERSONAL",
    message=(
        "if these tokens come from a personal subscription (Free, Pro, Max), Anthropic's terms allow them only for the "
        "buyer's own use of Anthropic's applications, not for relaying other people's requests, and the account may be "
        "closed; an API key is the supported way"
    ),
)
_SESSION_KEY = CredentialWarning(
    code="W-SESSION-KEY",
    message=(
        "a session key is the login of a person's browser: Anthropic's terms do not allow handing it to other software "
        "or serving other people with it, and it stops working without notice; an API key is the supported way"
    ),
)

API_KEY = AccountKind(name="api-key", header=b"x-api-key", prefixes=("sk-ant-api",))
OAUTH = AccountKind(
    name="oauth",
    header=b"authorization",
    scheme=b"Bearer ",
    beta=OAUTH_BETA,
    prefixes=("sk-ant-oat",),
    refreshes=True,
    warning=_OAUTH_PERSONAL,
)
SESSION_KEY = AccountKind(
    name="session-key", header=b"cookie", scheme=b"sessionKey=", prefixes=("sk-ant-sid",), warning=_SESSION_KEY
)
SIMULATOR = AccountKind(name="simulator", in_process=True)

ACCOUNT_KINDS: Mapping[str, AccountKind] = MappingProxyType(
    {kind.name: kind for kind in (API_KEY, OAUTH, SESSION_KEY, SIMULATOR)}
)
