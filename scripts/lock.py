"""Filter the output of `uv pip compile` for requirements.txt.

The CUDA libraries are left out: a torch wheel requires the exact versions that it was built for,
and torch for another backend (`make setup TORCH_BACKEND=cpu`) requires none.
"""

import re
import sys

print("# Created by `make lock`: the versions that Vestal is tested with, without CUDA libraries,")
print("# because each torch wheel requires its own.")
for line in sys.stdin:
    if not re.match(r"(nvidia-(?!ml-py)|cuda-|triton)", line):
        print(line, end="")
