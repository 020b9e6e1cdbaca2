"""`make demo`."""

import sys
from pathlib import Path

from vestal.demo import demo
from vestal.errors import VestalError

try:
    demo(Path("demo"))
except VestalError as error:
    sys.exit(f"demo: {error}")
