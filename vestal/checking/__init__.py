"""`vestal check`: find errors in an archive before TorchServe loads it.

    opening -> manifest, handler, labels, sample, pickles, weights, imports, config -> trial run

`vestal.mar.opening` checks a zip's directory, a tar's headers or a folder, and only then unpacks.
The checks after it only read files. `running` loads the archive in a child process, with a time and
a memory limit.
"""

from __future__ import annotations

from vestal.checking.checker import Report, check
from vestal.mar.findings import CODES, Finding, Severity

__all__ = ["CODES", "Finding", "Report", "Severity", "check"]
