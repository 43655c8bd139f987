"""Other servers of the same networks, each in an environment of its own: see docs/peers.md."""
