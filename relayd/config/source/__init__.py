"""How a tree is read coherently, and where it came from."""
