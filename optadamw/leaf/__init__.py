"""Run: one parameter's way through decode, rules, commit and encode."""
