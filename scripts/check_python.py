"""Check that Python can run `make setup`; compatible with any version of Python."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "Vestal requires Python 3.11 or newer, but this is %d.%d (%s). Install a newer one, "
        "or choose one with make setup PYTHON=python3.11"
        % (sys.version_info[:2] + (sys.executable,))
    )
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit(
        "This Python (%s) has no venv module. Install it (Debian and Ubuntu: "
        "apt-get install python3-venv) and run make again" % sys.executable
    )
