"""What the peers' saved states share: naming, matching and assembling their arrays."""
