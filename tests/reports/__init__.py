"""What `describe` and the planner of memory say."""
