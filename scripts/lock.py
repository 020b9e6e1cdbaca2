"""Filters what `uv pip compile` prints into requirements.txt.

The CUDA libraries are left out: a torch wheel names the exact ones it was built for, and a torch
for another backend (`make setup TORCH_BACKEND=cpu`) needs none of them.
"""

import re
import sys

print("# Made by `make lock`; every version that Vestal is tested with. No CUDA libraries:")
print("# each torch wheel names its own.")
for line in sys.stdin:
    if not re.match(r"(nvidia-(?!ml-py)|cuda-|triton)", line):
        print(line, end="")
