"""One training that survives a stop: the loop, checkpoints, signals, comparison."""
