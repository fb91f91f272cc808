"""Sealed values, identities and hashes."""
