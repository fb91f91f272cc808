"""Telemetry: traces of calls for an OpenTelemetry collector, where a node is told of one."""
