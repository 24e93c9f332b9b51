"""Shared by the tests: the oracle, trees, tables of cases, comparisons."""
