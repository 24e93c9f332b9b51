"""States that are saved, changed, damaged and restored."""
