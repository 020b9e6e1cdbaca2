"""Free ports, and ports in use."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import pytest

from vestal.configuration.ports import Endpoint, check_free, free_ports
from vestal.errors import VestalError


@pytest.fixture
def busy_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_free_ports_are_free_and_different():
    ports = free_ports("127.0.0.1", 5)
    assert len(set(ports)) == 5
    check_free([Endpoint("inference_address", "127.0.0.1", port) for port in ports])


def test_free_ports_are_not_given_to_connections_meanwhile():
    """Nor to others that ask for any free port."""
    random.seed(0)
    first = free_ports("127.0.0.1", 5)
    random.seed(0)
    assert set(first).isdisjoint(free_ports("127.0.0.1", 5))
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert not any(int(low) <= port <= int(high) for port in first)


def test_a_busy_port_is_named_with_its_setting_and_process(busy_port):
    with pytest.raises(VestalError) as caught:
        check_free([Endpoint("management_address", "127.0.0.1", busy_port)])
    assert str(caught.value).startswith(
        f"port {busy_port} (management_address) is in use by pid {os.getpid()}, "
    )
    assert "--port 0" in str(caught.value)


def test_a_port_is_busy_on_every_address(busy_port):
    with pytest.raises(VestalError, match="in use"):
        check_free([Endpoint("inference_address", "0.0.0.0", busy_port)])


def test_an_address_of_another_machine_cannot_be_bound():
    with pytest.raises(
        VestalError, match=r"cannot listen on 192\.0\.2\.1:8080 \(inference_address\)"
    ):
        check_free([Endpoint("inference_address", "192.0.2.1", 8080)])
