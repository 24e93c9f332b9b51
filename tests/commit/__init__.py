"""Tests of commits, which write a parameter into its dtype."""
