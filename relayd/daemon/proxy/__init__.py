"""One call, from its head to its receipt."""
