"""What the calls of all peers share: checks, callables, selections, the record."""
