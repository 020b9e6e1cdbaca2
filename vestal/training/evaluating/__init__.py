"""Measuring a model where it stands: its weights in process, its archive, a server that runs it.

test split -> `sources` -> answers, or why there is none -> `reports` -> figures
"""
