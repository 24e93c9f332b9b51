"""The code that the peers' saved states share: match, check and assemble arrays."""
