"""Tests of optadamw, run by `python -m pytest` from the repository root."""
