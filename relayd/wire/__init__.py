"""How it is said: bytes and dialects. Imports no other room; owns no socket and no clock."""
