"""Past calls played against a config: what would become of them."""
