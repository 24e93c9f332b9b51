"""Told: what a transformation does to given parameters, and what it costs."""
