"""Training loops of Flax and Equinox, as their users write them."""
