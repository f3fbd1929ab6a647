"""Where a page is served on this machine, and what visitors from elsewhere must know."""

from __future__ import annotations

import ipaddress
import secrets
import socket


def token_for(host: str, token: str | None) -> str | None:
    """The token that is wanted of every visitor: the given one; else a new one, where more than this machine can reach
    the address; else None.
    """
    return token if token is not None or is_loopback(host) else secrets.token_urlsafe(12)


def free_port(host: str, port: int) -> int:
    """The port, or with 0 one on which nobody listens now.

    Raises:
        ValueError: where it is taken, or the address is not this machine's.
    """
    with listening(host, port) as server:
        return int(server.getsockname()[1])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, on any free port with 0. Raises ValueError as `free_port`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"cannot listen on {host} port {port} ({error}): give another --host or --port") from None


def url_of(host: str, port: int) -> str:
    """The address of a page that is served by HTTP."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
