"""Hosts inside the machine and its cloud, which a request from elsewhere must not reach through geotile."""

from __future__ import annotations

import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_METADATA = {  # of AWS over IPv6 (also of ECS and EKS), Azure and Alibaba; the others are link-local
    ipaddress.ip_address(each) for each in ("fd00:ec2::254", "fd00:ec2::23", "168.63.129.16", "100.100.100.200")
}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def internal_address(host: str) -> str | None:
    """Return an address of a host that is loopback, link-local, unspecified or of a metadata service; None if none is.

    A name is resolved, and so are the decimal, octal and hexadecimal forms of an address.

    Raises
    ------
    OSError
        If the name cannot be resolved, so nobody knows where it leads.

    Examples
    --------
    >>> internal_address("2130706433"), internal_address("[::ffff:169.254.169.254]"), internal_address("192.0.2.1")
    ('127.0.0.1', '::ffff:169.254.169.254', None)
    """
    name = host.strip("[]").partition("%")[0].removesuffix(".")
    try:
        found = {str(each[4][0]).partition("%")[0] for each in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except UnicodeError as error:
        raise OSError(str(error)) from None
    return next((each for each in sorted(found) if _is_internal(ipaddress.ip_address(each))), None)


def _is_internal(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _is_internal(inner)
    return address.is_loopback or address.is_link_local or address.is_unspecified or address in _METADATA
