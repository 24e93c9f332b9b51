"""Saved states of other libraries, in and out."""
