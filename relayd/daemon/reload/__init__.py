"""How a change of the config takes effect."""
