"""How a parameter is written into its dtype."""
