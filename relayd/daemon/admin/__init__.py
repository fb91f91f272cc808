"""Watching and steering a running daemon."""
