"""Tell systemd that the server is ready, alive or stopping (`Type=notify`, `WatchdogSec=`).

The protocol of sd_notify(3) is one datagram to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket
from typing import Literal

State = Literal["READY=1", "STOPPING=1", "WATCHDOG=1"]


def notify(state: State) -> bool:
    """Send a state to systemd; return False if systemd did not start this process.

    Raises:
        OSError: systemd's socket does not accept it.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):  # in the abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode("ascii"))
    return True


def watchdog_seconds() -> float | None:
    """Return the time within which systemd expects `WATCHDOG=1`; None if it does not."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return None  # meant for a parent process
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
