"""Composed first: what a user chains, one public atom or wrapper a file."""
