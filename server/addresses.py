"""Parses and binds listening addresses: HOST:PORT, [IPV6]:PORT, and unix:PATH."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from dataclasses import dataclass

UNIX = "unix:"
PORT_MAX = 65535
# What the system's address has room for, less the byte that ends it.
_PATH_BYTES_MAX = 107 if sys.platform == "linux" else 103


@dataclass(frozen=True, slots=True)
class Address:
    """A listening address: a path of a Unix socket, or host and port.

    Attributes:
        host: A name or an address without brackets; empty for a path.
        port: 0 for any free one.
        path: Of a Unix domain socket; empty for host and port.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @staticmethod
    def of(host: str, port: int) -> Address:
        """The address of two settings, `host` and `port`; a `unix:` host needs no port."""
        if host.startswith(UNIX):
            return parse_address(host)
        return Address(host.removeprefix("[").removesuffix("]"), port)

    def __str__(self) -> str:
        if self.path:
            return f"{UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse an address. Raises ValueError if `text` is not one."""
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX).removeprefix("//")
        if not path:
            raise ValueError(f"{text!r} has no path; write unix:/run/server.sock")
        if len(os.fsencode(path)) > _PATH_BYTES_MAX:
            raise ValueError(
                f"{path!r} is too long; a socket's path has {_PATH_BYTES_MAX} bytes at most"
            )
        return Address(path=path)
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not port.isascii() or not port.isdigit() or int(port) > PORT_MAX or not host:
        raise ValueError(f"{text!r} is not an address; write HOST:PORT, [IPV6]:PORT, or unix:PATH")
    if ":" in host and not bracketed:
        raise ValueError(f"{text!r} is not an address: IPv6 needs brackets, as in [::1]:8080")
    return Address(host[1:-1] if bracketed else host, int(port))


def check_address(text: str) -> str:
    """Return `text` if it is an address. Raises ValueError."""
    parse_address(text)
    return text


def check_host(text: str) -> str:
    """`text`, if it can be a host; `unix:` needs a path. Raises ValueError."""
    if not text:
        raise ValueError("is empty; write an address, such as 127.0.0.1")
    Address.of(text, 0)
    return text


def remove_stale_socket(path: str) -> None:
    """Remove a socket file that an ended server left behind.

    Raises:
        OSError: A process listens on it, or it is no socket.
    """
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(errno.EEXIST, "the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def bind(address: Address) -> socket.socket:
    """A socket that listens on an address. Raises OSError."""
    if address.path:
        remove_stale_socket(address.path)
        return _listening(socket.AF_UNIX, address.path)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return _listening(family, (address.host, address.port))


def _listening(family: socket.AddressFamily, where: str | tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` takes IPv4 too, as gRPC's own listener does.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(where)
        # Now, and not when serving begins: until then others could bind it too.
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
