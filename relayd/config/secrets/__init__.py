"""Sealed values, identities, hashes, and the kinds of account."""
