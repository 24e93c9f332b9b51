"""AdamW under the names and defaults of other libraries."""
