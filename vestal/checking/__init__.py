"""`vestal check`: what is wrong with an archive, found before TorchServe finds it.

    opening -> manifest, sources, imports, config, pickles, weights, bill -> run

`opening` judges a zip's directory, a tar's headers or a folder, and only then unpacks; everything
after it reads files and runs nothing of the archive. `running` loads the archive in a child
process with a time and a memory limit.
"""

from __future__ import annotations

from vestal.checking.checker import Report, check
from vestal.mar.findings import CODES, Finding, Severity

__all__ = ["CODES", "Finding", "Report", "Severity", "check"]
