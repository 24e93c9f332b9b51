"""Schedules that are values: the numbers of Optax, and what a value can do."""
