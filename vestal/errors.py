"""What can go wrong in a way that the user can mend.

VestalError            found wrong: the message says what, where and what to do (exit code 1)
 └─ UsageError         used wrong: an argument, a file or a name that cannot be (exit code 2)

The client's own tree (`vestal.client.errors`) starts at VestalError too.
"""


class VestalError(Exception):
    """Something that the user can mend; its text is one or two sentences without a traceback."""

    exit_code = 1


class UsageError(VestalError):
    """A command or a function was called with something that cannot be."""

    exit_code = 2
