"""Address parsers: what the operator writes for a place on a network.

Rule: syntax only; no name is looked up and no file is opened. Each parser returns the value or raises Bad.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from relayd.config.model.values import HIDE, Bad, text
from relayd.config.problems.leaks import redact
from relayd.config.snapshot import Network, Proxy, Url


def network(value: Any) -> Network:
    """An address or a CIDR range."""
    if not _is_network(text(value)):
        raise Bad("E-NETWORK", "expected an address or a CIDR range", value, _network_hint(value))
    return Network(value)


@functools.lru_cache(maxsize=4096)  # thousands of keys share a few ranges
def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def _network_hint(value: str) -> str:
    try:
        return f'the range is "{ipaddress.ip_network(value, strict=False)}"'
    except ValueError:
        return ""


_LOOPBACK_NAMES = ("localhost", "ip6-localhost")
_HOST_RE = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?"
)


def url(value: Any) -> Url:
    """An http(s) URL to build on: no user part, query or fragment; without its trailing slash."""
    parts = _split(text(value), "E-URL", ("http", "https"))
    if "@" in parts.netloc:
        raise Bad("E-URL", "expected a URL without a user part", HIDE, "credentials go into [credential]")
    if "?" in value or "#" in value:
        raise Bad("E-URL", "expected a URL without a query or fragment", value)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise Bad("E-CLEARTEXT", "expected https", value, "plain http is for 127.0.0.1, [::1] and localhost only")
    return Url(value.rstrip("/"))


def _split(value: str, code: str, schemes: tuple[str, ...]) -> Any:
    """The parts of a URL whose scheme, host and port are well formed."""
    expected = f"expected a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if not re.fullmatch(r"[!-~]{1,2000}", value) or "\\" in value:
        raise Bad(code, f"{expected}, of visible ASCII characters", value)
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Bad(code, f"{expected} ({redact(str(error)).lower()})", value) from None
    if parts.scheme not in schemes or not value.startswith(f"{parts.scheme}://"):
        raise Bad(code, expected, value)
    if not is_host(host) or port == 0:
        raise Bad(code, "expected a host and a valid port", value)
    return parts


def is_host(host: str) -> bool:
    """Whether `host` is a name or an address (IPv6 without brackets)."""
    if ":" in host:
        return _address(host) is not None
    return len(host) <= 253 and _HOST_RE.fullmatch(host) is not None


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    address = _address(host)
    return host.lower() in _LOOPBACK_NAMES if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def proxy(value: Any) -> Proxy:
    """A proxy's URL, or "" for none. Never shown: it may hold a password."""
    if type(value) is not str:
        raise Bad("E-TYPE", "expected a string", HIDE)
    if value == "":
        return Proxy("")
    try:
        parts = _split(value, "E-PROXY", ("http", "https", "socks5"))
    except Bad as bad:
        raise Bad(bad.code, bad.what.split(" (")[0], HIDE, bad.hint) from None
    if parts.port is None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Bad("E-PROXY", "expected scheme://host:port and nothing behind it", HIDE)
    return Proxy(value)


def address(value: Any) -> str:
    """A listen address: host:port, [v6]:port or unix:/path."""
    if text(value).startswith("unix:"):
        path = value[5:]
        # 107: what fits into sockaddr_un.sun_path (108 bytes with its NUL) on Linux
        if not path.startswith("/") or "\0" in path or len(path.encode()) > 107:
            raise Bad("E-ADDRESS", "expected unix: and an absolute path of at most 107 bytes", value)
        return str(value)
    host, colon, port = value.rpartition(":")
    v6 = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if v6 else host
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or not is_host(bare):
        raise Bad("E-ADDRESS", "expected host:port, [v6]:port or unix:/path", value, _address_hint(host, port))
    if v6 != (":" in bare):
        raise Bad("E-ADDRESS", "expected an IPv6 address in brackets, and nothing else in them", value)
    return str(value)


def _address_hint(host: str, port: str) -> str:
    if host in ("", "*") and port.isdigit():
        return f'for every address of this machine write "0.0.0.0:{port[:5]}" and "[::]:{port[:5]}"'
    return ""


def address_or_off(value: Any) -> str:
    """A listen address, or "" for none."""
    return "" if value == "" else address(value)


def origin(value: Any) -> str:
    """A web origin (RFC 6454): scheme://host[:port], as browsers write it."""
    parts = _split(text(value), "E-ORIGIN", ("https", "http"))
    if value != f"{parts.scheme}://{parts.netloc.lower()}" or "@" in value:
        hint = f'write "{parts.scheme}://{parts.netloc.lower()}"' if "@" not in value else ""
        raise Bad("E-ORIGIN", "expected scheme://host[:port] in lower case and nothing behind it", value, hint)
    return str(value)


def origin_or_any(value: Any) -> str:
    """A web origin, or "*" for any."""
    return "*" if value == "*" else origin(value)


def host_name(value: Any) -> str:
    """A host name in lower case, without a port."""
    name = text(value)
    if not is_host(name) or ":" in name or name != name.lower():
        raise Bad("E-ORIGIN", "expected a host name in lower case, without scheme and port", value)
    return name


_STATE_RE = re.compile(r"rediss?(?:\+(?:sentinel|cluster))?://([!-.0-~]{1,500})((?:/[\w.-]{0,100}){0,2})", re.ASCII)
# What may stand behind the ? of a state URL: files of the node, and a switch.
STATE_URL_FILES = ("ca", "cert", "key")
STATE_URL_OPTIONS = (*STATE_URL_FILES, "sentinel_auth")


def state_url(value: Any) -> str:
    """Where state is kept. A password has no place in it."""
    if text(value).startswith("sqlite:"):
        if not re.fullmatch(r"sqlite:[^\0\n?#]{1,1000}", value) or value.startswith("sqlite://"):
            raise Bad("E-STATE-URL", "expected sqlite: and a path", value, 'such as "sqlite:var/relayd.db"')
        return str(value)
    address, _, query = value.partition("?")
    match = _STATE_RE.fullmatch(address)
    if match is None:
        schemes = "sqlite:PATH, redis://, redis+sentinel:// or redis+cluster:// (rediss for TLS) and host:port"
        raise Bad("E-STATE-URL", f"expected {schemes}", value)
    user, _, hosts = match[1].rpartition("@")
    if ":" in user:
        hint = "use [state].password_file or RELAYD_STATE_PASSWORD"
        raise Bad("E-PLAINTEXT-SECRET", "the state URL holds a password", HIDE, hint)
    if not all(_is_host_port(host) for host in hosts.split(",")):
        raise Bad("E-STATE-URL", "expected host:port, several separated by commas", value)
    _refuse_options(query, value)
    return str(value)


def _refuse_options(query: str, value: str) -> None:
    """Raises Bad for an option of a state URL that is unknown, is written twice, or has no sensible value."""
    pairs = parse_qsl(query, keep_blank_values=True)
    names = [name for name, _ in pairs]
    if not set(names) <= set(STATE_URL_OPTIONS) or len(names) != len(set(names)) or (query and not pairs):
        hint = f"options are {', '.join(STATE_URL_OPTIONS)}, each once"
        raise Bad("E-STATE-URL", "an unknown option stands behind the ?", value, hint)
    for name, given in pairs:
        if name in STATE_URL_FILES and not (given.startswith("/") and given.isprintable()):
            raise Bad("E-STATE-URL", f"{name} is the absolute path of a PEM file on the node", value)
        if name == "sentinel_auth" and given not in ("yes", "no"):
            raise Bad("E-STATE-URL", "sentinel_auth is yes or no", value)


def _is_host_port(value: str) -> bool:
    host, colon, port = value.rpartition(":") if not value.endswith("]") else (value, "", "")
    if not colon:
        host = host or value
    return is_host(host.strip("[]")) and (not colon or (port.isdigit() and 0 < int(port[:6]) < 65536))
