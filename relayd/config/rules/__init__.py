"""What a tree must keep besides its syntax and types."""
