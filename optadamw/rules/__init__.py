"""Rules: what happens to one parameter, one rule a file, in the order of the papers."""
