"""Recipes: the data sets, objective and training settings of a model folder."""
