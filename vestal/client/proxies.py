"""Proxies of the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY as in requests.

Loopback addresses are called without a proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


def find_proxies(addresses: Iterable[str]) -> dict[str, str]:
    """Return the proxy of each address that has one; raises ValueError for an invalid URL."""
    proxies = {}
    for address in addresses:
        if not is_loopback(urlsplit(address).hostname or ""):
            proxy = select_proxy(address, get_environ_proxies(address, no_proxy=None))
            if proxy:
                proxies[address] = proxy if "://" in proxy else f"http://{proxy}"
                without_credentials(proxies[address])
    return proxies


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback name or address."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def without_credentials(proxy: str) -> str:
    """Return a proxy's URL without user and password; raises ValueError for an invalid URL."""
    try:
        parts = urlsplit(proxy)
        host, port, scheme = parts.hostname, parts.port, parts.scheme
    except ValueError:
        host, port, scheme = None, None, ""
    if not host or scheme not in SCHEMES:
        # The message does not show the URL, which may hold a password.
        raise ValueError(
            f"the proxy's URL does not have host, port and one of the schemes {', '.join(SCHEMES)}"
        )
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}{f':{port}' if port is not None else ''}"
