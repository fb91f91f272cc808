"""What is wrong with a tree, and how it is reported."""
