"""FlashOptim beside optadamw: the codes of the moments, one by one and in training."""
