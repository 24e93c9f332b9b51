"""Where states lie; most of the tests need several devices and are lanes."""
