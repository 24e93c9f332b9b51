"""What a transformation does to given parameters, and what it costs."""
