"""Buffers in 8 and 16 bits: what is kept between steps, and that training goes on."""
