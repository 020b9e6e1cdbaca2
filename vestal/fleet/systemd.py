"""Tell systemd that the server is ready, alive or stopping (`Type=notify`, `WatchdogSec=`).

The protocol of sd_notify(3) is one datagram to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket
from typing import Literal

_SECONDS = 1.0
State = Literal["READY=1", "STOPPING=1", "WATCHDOG=1"]


def notify(state: State) -> bool:
    """Send a state to systemd; return False if systemd did not start this process.

    False also if the socket does not accept it: systemd decides what a missing message means.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):  # in the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_SECONDS)  # it would block while the receiver's queue is full
            sender.connect(address)
            sender.sendall(state.encode("ascii"))
    except OSError:
        return False
    return True
