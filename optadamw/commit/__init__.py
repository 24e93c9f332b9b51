"""How a new parameter is written into its dtype."""
