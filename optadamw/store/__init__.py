"""How a buffer is kept between two steps, and the State of all buffers."""
