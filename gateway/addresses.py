"""What counts as one address of somebody who asks."""

import ipaddress
from functools import lru_cache

from aiohttp import web


@lru_cache(4096)
def network_of(host: str) -> str:
    """An IPv4 address, or the /64 that one IPv6 customer has (RFC 6177)."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def source_of(request: web.BaseRequest) -> str:
    """Where a request came from, by its connection: no header of it has a say. ``local`` for the local socket."""
    transport = request.transport
    peer = None if transport is None else transport.get_extra_info("peername")
    return network_of(peer[0]) if isinstance(peer, tuple) else "local"
