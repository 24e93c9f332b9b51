"""Where a state lies: its shardings by construction, and a check of them."""
