"""Ports: free or held, and by whom."""

from __future__ import annotations

import os
import socket

import pytest

from vestal.configuration.ports import Endpoint, check_free, free_ports
from vestal.errors import VestalError


@pytest.fixture
def held():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_free_ports_are_free_and_different():
    ports = free_ports("127.0.0.1", 5)
    assert len(set(ports)) == 5
    check_free([Endpoint("inference_address", "127.0.0.1", port) for port in ports])


def test_a_held_port_is_named_with_its_setting_and_holder(held):
    with pytest.raises(VestalError) as caught:
        check_free([Endpoint("management_address", "127.0.0.1", held)])
    assert str(caught.value).startswith(
        f"port {held} (management_address) is in use by pid {os.getpid()}, "
    )
    assert "--port 0" in str(caught.value)


def test_a_port_held_on_every_address_is_held(held):
    with pytest.raises(VestalError, match="in use"):
        check_free([Endpoint("inference_address", "0.0.0.0", held)])


def test_an_address_of_another_machine():
    with pytest.raises(VestalError, match=r"192\.0\.2\.1:8080 \(inference_address\) cannot be"):
        check_free([Endpoint("inference_address", "192.0.2.1", 8080)])
