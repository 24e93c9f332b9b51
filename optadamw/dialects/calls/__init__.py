"""Parts of the peers' calls: the record of a call, shared arguments, checks."""
