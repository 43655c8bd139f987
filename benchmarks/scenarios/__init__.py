"""Ways to load a server; each writes one kind of result."""
