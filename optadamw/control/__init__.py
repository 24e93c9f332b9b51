"""The decision whether a gradient becomes a step, made of scalars and no trees."""
