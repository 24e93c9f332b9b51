"""What decides whether and how a gradient becomes a step: scalars, and no trees."""
