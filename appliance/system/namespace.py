# SPDX-License-Identifier: GPL-2.0-only
"""A network namespace by name: that of the management port, if no other is named.

It separates the management port from the data path, whatever rules, routes and addresses either has. It outlives
bypassd, and so do the SSH sessions, the DHCP client and the guests' ports in it. `inside` runs a function on a new
thread that enters the namespace and ends, so that no thread of bypassd ever changes its namespace.
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
from appliance.system import netdev

T = TypeVar("T")
NAME: Final = "mgmt"
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2


def _call(function: str, *arguments: object) -> None:
    """Call a function of the C library that returns 0 on success; OSError otherwise."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@dataclass(frozen=True)
class Namespace:
    """One namespace, which may not exist yet. `run` is the folder in which iproute2 keeps the names."""

    name: str = NAME
    run: Path = Path("/run/netns")

    @property
    def exists(self) -> bool:
        """Whether it exists. A plain file does not count: a crash leaves one between two steps of `make`."""
        return os.path.ismount(self.run / self.name)

    def make(self) -> None:
        """Create it if missing, with loopback up and a name for iproute2. UnreachableError: the kernel refuses."""

        def body() -> None:
            try:
                _call("unshare", _CLONE_NEWNET)
                netdev.change_flags("lo", netdev.IFF_UP)
                netdev.disable_ipv6("default")  # only the management port gets IPv6, if configured
                here = f"/proc/self/task/{threading.get_native_id()}/ns/net"
                _call("mount", here.encode(), os.fsencode(self.run / self.name), b"none", _MS_BIND, None)
            except OSError as error:
                errors.append(error)

        if self.exists:
            return
        errors: list[OSError] = []
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            (self.run / self.name).touch()
            thread = threading.Thread(target=body, name=f"netns-{self.name}")
            thread.start()
            thread.join()
        except OSError as error:
            errors.append(error)
        if errors:
            what = f"the network namespace {self.name} cannot be created: {errors[0].strerror}"
            raise UnreachableError(what) from errors[0]

    def remove(self) -> None:
        """Remove its name, and with it the namespace unless something else is in it. UnreachableError: not possible."""
        path = self.run / self.name
        try:
            if self.exists:
                _call("umount2", os.fsencode(path), _MNT_DETACH)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UnreachableError(f"the network namespace {self.name} cannot be removed: {error.strerror}") from error

    def command(self, words: list[str]) -> list[str]:
        """The command line that runs `words` in the namespace. `ip netns exec` would hide /sys from the program."""
        return ["nsenter", f"--net={self.run / self.name}", *words]

    def inside(self, function: Callable[[], T]) -> T:
        """Run `function`, which must be quick, in the namespace. UnreachableError: there is no namespace."""
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
            _call("setns", descriptor, _CLONE_NEWNET)  # os.setns came with Python 3.12
        finally:
            os.close(descriptor)

    def listen_tcp(self, port: int) -> socket.socket:
        """A socket that listens on every address of the management port, IPv4 and IPv6. OSError: the port is in use."""

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
        """A socket that sends through the management port."""

        def make() -> socket.socket:
            made = socket.socket(family, kind)
            made.setblocking(False)
            return made

        return self.inside(make)
