"""Run: one parameter goes through decode, rules, commit and encode."""
