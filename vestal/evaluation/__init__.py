"""Measure a model on test data: its weights, its archive, or the model on a server.

test split -> `sources` -> predictions and refused inputs -> `reports` -> metrics
"""

from vestal.evaluation.measuring import Evaluation, as_json, evaluate

__all__ = ["Evaluation", "as_json", "evaluate"]
