"""Whether a gradient becomes a step: accumulation, guard, loss scale, statistics."""
