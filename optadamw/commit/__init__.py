"""A commit writes a new parameter into its dtype."""
