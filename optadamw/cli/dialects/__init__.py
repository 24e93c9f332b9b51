"""`optadamw dialects`: the calls of other libraries' AdamW."""
