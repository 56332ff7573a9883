"""Which addresses a client may have us connect to: public ones, and those that the operator names."""

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Allowed:
    """Public addresses, and ``named`` networks beside them."""

    __slots__ = ("_named",)

    def __init__(self, named: Iterable[Network] = ()) -> None:
        self._named = tuple(named)

    def __contains__(self, text: str) -> bool:
        """Whether the address written as ``text`` may be connected to; what is no address may not."""
        try:
            address = _plain(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        if any(address.version == network.version and address in network for network in self._named):
            return True
        return address.is_global and not address.is_multicast and not address.is_reserved


def networks(text: str) -> tuple[Network, ...]:
    """``127.0.0.1, 10.1.0.0/16`` as networks; raises `ValueError`."""
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())


def _plain(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that only wraps it: routers and kernels unwrap it too."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or _nat64(address) or address


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    prefix = ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in prefix else None
