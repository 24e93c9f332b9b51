"""A store keeps a buffer between two steps; the State holds all buffers."""
