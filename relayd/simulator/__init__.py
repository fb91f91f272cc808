"""A Claude API that needs no account: deterministic answers, streams, faults on demand. Imports wire and config."""
