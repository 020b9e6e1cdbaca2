"""Make archives: stage a model, convert its weights, add a sample, pack."""
