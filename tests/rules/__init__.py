"""Numbers of the rules against the oracle, and which rules may follow each other."""
