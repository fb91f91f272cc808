"""Transport errors: why an upstream's answer did not come, or not whole.

Rule: a text names the origin and the cause, never a header or a credential.

Theory: they are classes of our own because httpx2 with what it imports takes 4 MB, and a call has no other use for it.
`httpx2_transport` raises httpx2's in their place.
"""

from __future__ import annotations


class TransportError(Exception):
    """What ends a call on its way. The others are kinds of it."""


class ProxyError(TransportError):
    """The proxy does not let us through."""


class UnsupportedProtocol(TransportError):
    """The URL is none that we can call."""


class ConnectError(TransportError):
    """No connection."""


class NoDescriptors(ConnectError):
    """This node itself cannot open a connection."""


class ReadError(TransportError):
    """The connection broke while the answer was read."""


class SendError(TransportError):
    """The connection broke while the request was sent."""


class TimeoutException(TransportError):
    """It took too long."""


class ConnectTimeout(TimeoutException):
    """No connection in time."""


class ReadTimeout(TimeoutException):
    """No byte of the answer in time."""


class WriteTimeout(TimeoutException):
    """No byte of the request was taken in time."""


class ProtocolError(TransportError):
    """What was said is not HTTP/1.1."""


class LocalProtocolError(ProtocolError):
    """The request is not, so it was not sent."""


class RemoteProtocolError(ProtocolError):
    """The answer is not, or is not whole."""


class Disconnected(RemoteProtocolError):
    """The upstream closed the connection before its answer was whole; what came until then was HTTP."""
