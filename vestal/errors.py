"""Errors that the user can fix.

VestalError            a failure; the message names its place and what to do (exit code 1)
 └─ UsageError         an invalid argument, file or name (exit code 2)

The client's errors (`vestal.client.errors`) are subclasses of VestalError too.
"""


class VestalError(Exception):
    """An error that the user can fix; commands print its message without a traceback."""

    exit_code = 1


class UsageError(VestalError):
    """An invalid argument of a command or a function."""

    exit_code = 2
