"""Measuring a model where it stands: its weights in process, its archive, a server that runs it.

test split -> `sources` -> answers, or why there is none -> `reports` -> figures; `measuring` is all
of it.
"""

from vestal.evaluation.measuring import Evaluation, evaluate, facts

__all__ = ["Evaluation", "evaluate", "facts"]
