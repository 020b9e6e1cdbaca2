"""Says in one sentence what is missing before `make setup` can start (runs on any Python)."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "Vestal needs Python 3.11 or newer, this is %d.%d (%s): install a newer one, "
        "or say which: make setup PYTHON=python3.11" % (sys.version_info[:2] + (sys.executable,))
    )
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit(
        "This Python (%s) has no venv module: install it (Debian and Ubuntu: "
        "apt-get install python3-venv) and run make again" % sys.executable
    )
