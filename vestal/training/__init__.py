"""Train a model by its recipe: data sets, the loop, distillation, pruning, plots."""
