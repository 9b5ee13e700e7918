"""Listening sockets on addresses of both families."""

from __future__ import annotations

import errno
import socket

BACKLOG = 128
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. ``host`` empty: every address of the machine, IPv4 and IPv6.

    A machine without IPv6 listens on IPv4 alone. An IPv6 address may be in brackets. Port 0: any free port.
    Raises OSError if the address is taken or not of this machine.
    """
    if not host:
        return _listen_everywhere(port)
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, where = found[0]
    return socket.create_server(where[:2], family=family, backlog=BACKLOG)


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        except OSError as exc:
            if exc.errno not in _NO_IPV6:
                raise
    return socket.create_server(("", port), backlog=BACKLOG)
