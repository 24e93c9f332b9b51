"""The shardings of a state, by construction, and a check of them."""
