"""Batch prediction: many inputs through an archive's own handler, in this process.

    inputs -> model -> journal -> output

`run` connects them; `fields` chooses the columns of a table that a model takes.
"""
