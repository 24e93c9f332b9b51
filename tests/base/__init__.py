"""Masks: which parameters a choice means."""
