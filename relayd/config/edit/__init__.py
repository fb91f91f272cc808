"""How files of a tree are changed."""
