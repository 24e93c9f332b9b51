"""Reports on a transformation: its plan for given parameters, its memory, its plots."""
