"""The repository itself: its layers, documentation, examples, benchmarks and tests."""
