"""Candidates for the 8-bit code of AdamW's moments, measured beside each other."""
