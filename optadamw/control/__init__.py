"""Controlled: whether a gradient becomes a step, decided by scalars and no trees."""
