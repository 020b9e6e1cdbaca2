"""`make demo`; the argument, if any, is a picture to classify: `make demo PHOTO=cat.jpg`."""

import sys
from pathlib import Path

from vestal.demo import demo
from vestal.errors import VestalError

try:
    demo(Path("demo"), Path(sys.argv[1]) if len(sys.argv) > 1 else None)
except VestalError as error:
    sys.exit(f"demo: {error}")
