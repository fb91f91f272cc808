"""Telemetry settings: where traces go, from the variables that every OpenTelemetry program reads.

Rule: pure. They are this node's own, not the tree's: a collector's address differs from node to node and its headers
are secrets. Certificates, headers, timeouts, compression, samplers and resource attributes are read by the SDK itself.
Source: OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from relayd.noun import noun

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"


class TelemetryError(Exception):
    """The variables ask for what cannot be done. The text says what, and what to do."""


@noun(kw_only=True)
class TraceSettings:
    """How traces are sent.

    Args:
        endpoint: URL of the collector, as the variable has it; it may hold a password.
        most: calls that may wait to be sent; more are dropped.
        pause: s between two looks at what waits.
        together: calls sent at once.
        service: `service.name` of the resource; "" where the variables name it.
    """

    endpoint: str = attrs.field(repr=False)
    most: int = 2048
    pause: float = 5.0
    together: int = 64
    service: str = "relayd"


def trace_settings(environ: Mapping[str, str]) -> TraceSettings | None:
    """What the environment says; None where no traces are wanted. Raises: TelemetryError."""
    endpoint = _first(environ, _ENDPOINTS)
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not endpoint or disabled or environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() not in ("", "otlp"):
        return None
    protocol = _first(environ, _PROTOCOLS) or PROTOCOL
    if protocol != PROTOCOL:
        raise TelemetryError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol[:40]!r} is not spoken (use {PROTOCOL})")
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return TraceSettings(
        endpoint=endpoint,
        most=_number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048),
        pause=_number(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
        together=_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 64),
        service="" if named else "relayd",
    )


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")


def _number(environ: Mapping[str, str], name: str, usual: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return usual
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise TelemetryError(f"{name}: expected a whole number from 1 to 1000000, got {text[:40]!r}")
    return int(text)
