"""Laws that hold for every transformation of `tests.support.transformations`."""
