"""Tests of `describe` and of the planner of memory."""
