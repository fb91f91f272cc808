"""What the TOML of a tree may say, and where it says it."""
