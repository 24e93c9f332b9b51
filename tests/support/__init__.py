"""What the tests share: the oracle, trees, tables of cases, comparisons."""
