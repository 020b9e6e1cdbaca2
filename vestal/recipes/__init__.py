"""Recipes: what a model folder says about data, objective and training."""
