def describe(tx, params): return ""
