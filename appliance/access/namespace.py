# SPDX-License-Identifier: GPL-2.0-only
"""The network namespace of the management port, by name.

Nothing of the data path is in it and nothing of it in the data path: no rule, route or address has to be right for
that. It outlives bypassd, as SSH sessions and the DHCP client in it do. Functions run in it on a thread of their own,
which joins it and ends, so that no thread of bypassd ever changes its own.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from appliance.errors import UnreachableError

T = TypeVar("T")
NAME: Final = "mgmt"
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Namespace:
    """One namespace, there or not. `run` is where iproute2 keeps the names."""

    name: str = NAME
    run: Path = Path("/run/netns")

    @property
    def exists(self) -> bool:
        """Whether it was made."""
        return (self.run / self.name).exists()

    def command(self, words: list[str]) -> list[str]:
        """The command line that runs `words` in there. Not `ip netns exec`: it hides /sys from what it starts."""
        return ["nsenter", f"--net={self.run / self.name}", *words]

    def inside(self, function: Callable[[], T]) -> T:
        """What `function` returns in there; it must be quick. UnreachableError when there is no namespace."""
        results: list[T] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                self._join()
                results.append(function())
            except BaseException as error:  # handed to the caller below, whatever it is
                errors.append(error)

        if not self.exists:
            raise UnreachableError("the management port is not set up: give it an address")
        thread = threading.Thread(target=body, name=f"netns-{self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def _join(self) -> None:
        descriptor = os.open(self.run / self.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # os.setns came with Python 3.12
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            os.close(descriptor)

    def listen_tcp(self, port: int) -> socket.socket:
        """A socket that listens on every address of the management port, IPv4 and IPv6. OSError when it is taken."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                made.setblocking(False)
                made.bind(("::", port))
                made.listen(16)
            except OSError:
                made.close()
                raise
            return made

        return self.inside(make)

    def client(self, family: int, kind: int) -> socket.socket:
        """A socket that leaves by the management port."""

        def make() -> socket.socket:
            made = socket.socket(family, kind)
            made.setblocking(False)
            return made

        return self.inside(make)
