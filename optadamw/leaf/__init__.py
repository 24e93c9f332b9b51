"""The computation for one parameter: decode, rules, commit, encode."""
