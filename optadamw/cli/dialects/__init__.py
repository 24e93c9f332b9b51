"""`optadamw dialects`: how each peer's AdamW is spoken here."""
