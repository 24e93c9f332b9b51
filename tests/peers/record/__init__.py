"""One recorder per peer, run as `python -m tests.peers.record.<peer>`."""
