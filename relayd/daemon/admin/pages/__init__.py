"""Admin pages: watching and steering for people, made on the server."""
