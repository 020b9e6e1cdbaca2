"""Convert weights for other engines, quantize them, and measure what that costs in accuracy.

weights -> `convert` -> artifact in fp32 -> `quantize`, with recorded inputs -> artifact in int8
predictions of both -> `gate` -> accepted or refused
"""
