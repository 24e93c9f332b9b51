"""What decides whether a gradient becomes a step: scalars, and no trees."""
