"""What to do: decisions. Sync and clock-free; `now` and `rng` are arguments. Imports wire and config."""
