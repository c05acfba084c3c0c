# SPDX-License-Identifier: GPL-2.0-only
"""bypassd as the keeper has it: a child process that it starts, kills and reaps, and the link to it.

Nothing here decides: the core orders (lifecycle.py), and is told what happened by events.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from typing import TYPE_CHECKING

from appliance.keeper.messages import Event, Exited, LinkLost
from appliance.keeper.protocol import LINK_VARIABLE, PACKET_BYTES, parse_packet
from appliance.keeper.silence import Looked
from appliance.keeper.starter import Starter

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.keeper.logger import Logger


class Bypassd:
    """One process at a time. Its descriptors are in the loop's `poll`; `tell` takes the events."""

    def __init__(
        self,
        command: list[str],
        *,
        poll: select.poll,
        tell: Callable[[Event], None],
        stopping: Callable[[], bool],
        log: Logger,
    ) -> None:
        """`stopping`: whether the keeper is about to exit, so that it does not wait for a disk."""
        self._command, self._poll, self._tell, self._stopping, self._log = command, poll, tell, stopping, log
        self._starter: Starter | None = None
        self._link: socket.socket | None = None
        self._starting: socket.socket | None = None  # its end of the link while it is being started
        self._kill_starting = 0  # the signal that it gets as soon as it exists
        self._pid = 0  # our child until `reap`: no other process can get its number before
        self._pidfd = -1  # wakes the loop when the child ends; without it the loop checks at each turn

    def spawn(self) -> None:
        """Start one, in a thread, with its link."""
        try:
            if self._starter is None:
                self._starter = Starter()
                self._poll.register(self._starter, select.POLLIN)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError as error:  # no descriptor or no thread: retried with the back-off, like every start
            self._tell(Exited(f"cannot be started: {error.strerror or error}"))
            return
        theirs.set_inheritable(True)
        self._link, self._starting = ours, theirs
        self._poll.register(ours, select.POLLIN)
        # the scheduler resets priority and policy on fork (see `harden`); locked memory does not survive exec
        self._starter.start(self._command, {**os.environ, LINK_VARIABLE: str(theirs.fileno())})

    def ready(self, fd: int) -> None:
        """Poll says that something can be read from this descriptor; it may be another one's."""
        if self._starter is not None and fd == self._starter.fileno():
            self._started(self._starter)
        elif self._link is not None and fd == self._link.fileno():
            self._receive(self._link)

    def _started(self, starter: Starter) -> None:
        assert self._starting is not None
        self._starting.close()
        self._starting = None
        try:
            self._pid = starter.result()
        except OSError as error:
            self._kill_starting = 0  # it was meant for this start
            self._drop_link()
            self._tell(Exited(f"cannot be started: {self._command[0]}: {error.strerror}"))
            return
        try:
            self._pidfd = os.pidfd_open(self._pid)
            self._poll.register(self._pidfd, select.POLLIN)
        except OSError as error:
            text = f"no pidfd of bypassd: {error.strerror}: when it ends, that is noticed within a second"
            self._log.line(text, severe=False)
        if number := self._kill_starting:
            self._kill(number)

    def kill(self, *, orderly: bool) -> None:
        """End it: with SIGTERM if `orderly`, else with SIGKILL."""
        self._kill(signal.SIGTERM if orderly else signal.SIGKILL)

    def _kill(self, number: int) -> None:
        if self._starting is not None:
            self._kill_starting = number
            if self._stopping():  # do not wait for the disk: once loaded, bypassd finds its link closed and exits
                self._tell(Exited("was still being loaded"))
        elif self._pid:
            os.kill(self._pid, number)

    def reap(self) -> None:
        """Collect the exit status if it has ended."""
        if not self._pid:
            return
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return
        self._pid = self._kill_starting = 0
        if self._pidfd >= 0:
            self._poll.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._drop_link()
        code = os.waitstatus_to_exitcode(status)
        self._tell(Exited(f"ended with status {code}" if code >= 0 else f"killed by signal {-code}"))

    def _drop_link(self) -> None:
        if self._link is not None:
            self._poll.unregister(self._link)
            self._link.close()
            self._link = None

    def _receive(self, link: socket.socket) -> None:
        try:
            packet = link.recv(PACKET_BYTES)
            if packet:
                self._tell(parse_packet(packet))
                return
            why = "closed its keeper link"
        except BlockingIOError:
            return
        except OSError as error:
            why = f"lost its keeper link ({error.strerror})"
        except ValueError as error:
            why = f"sent a malformed check-in ({error})"
        self._drop_link()
        self._tell(LinkLost(why))

    def send(self, state: dict[str, object]) -> None:
        """Send it the keeper's state, if it has a link."""
        if self._link is not None:
            try:
                self._link.send(json.dumps(state).encode())
            except OSError:
                pass  # full or closed: a hung bypassd is noticed by its missing check-ins, and the loop never waits

    def look(self) -> Looked:
        """The kernel's account of it."""
        return look_at(self._pid)


def look_at(pid: int) -> Looked:
    """The kernel's account of a process (proc(5), sched-stats.rst). Takes no lock that the process could hold."""
    folder, threads, state = f"/proc/{pid}", {}, ""
    try:
        with open(f"{folder}/stat", "rb") as file:
            state = chr(file.read().rpartition(b") ")[2][0])
        for thread in os.listdir(f"{folder}/task"):
            try:
                with open(f"{folder}/task/{thread}/schedstat", "rb") as file:
                    ran, waited, _ = file.read().split()
            except OSError:
                continue  # it ended meanwhile
            threads[int(thread)] = int(ran), int(waited)
    except (OSError, ValueError, IndexError):
        pass  # no account: its silence is then plain time
    return Looked(threads, state)
