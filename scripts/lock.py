"""Filter the output of `uv pip compile` for requirements.txt.

The CUDA libraries are left out: a torch wheel requires the exact versions that it was built for,
and torch for another backend (`make setup TORCH_BACKEND=cpu`) requires none.
"""

import re
import sys

print("# Made by `make lock`; every version that Vestal is tested with. No CUDA libraries:")
print("# each torch wheel names its own.")
for line in sys.stdin:
    if not re.match(r"(nvidia-(?!ml-py)|cuda-|triton)", line):
        print(line, end="")
