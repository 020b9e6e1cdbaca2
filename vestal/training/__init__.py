"""Training: a model's recipe, the data sets, the loop, and what a training leaves behind."""
