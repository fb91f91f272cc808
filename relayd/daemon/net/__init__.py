"""Bytes on sockets: knows HTTP, and no account."""
