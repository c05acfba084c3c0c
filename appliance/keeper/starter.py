# SPDX-License-Identifier: GPL-2.0-only
"""Starts bypassd without making the keeper's loop wait: an exec reads from the disk, and a disk may stall for ever.

posix_spawn returns when the new program is loaded (vfork: the calling thread is suspended until then). So it is called
on a thread of its own, through ctypes, which lets the loop run meanwhile (os.posix_spawn holds the interpreter's lock).
fork is not used: the loop would have to copy pages, and allocating one may also wait for the disk.

The thread lives as long as the keeper, because bypassd has the kernel kill it when the thread that started it ends
(PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import _thread
import ctypes
import os
import signal

from appliance.keeper import thread

_SETPGROUP, _SETSIGDEF, _SETSIGMASK = 0x02, 0x04, 0x08  # spawn.h; the same in glibc and musl
_ATTRIBUTES_BYTES, _SIGSET_BYTES = 1024, 128  # posix_spawnattr_t has 336 bytes in both


class Starter:
    """One start at a time: `start`, then wait until `fileno` is readable, then `result`."""

    def __init__(self) -> None:
        """OSError: a thread or a descriptor cannot be created."""
        self._libc = ctypes.CDLL(None)
        self._attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
        self._prepare()
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ordered = _thread.allocate_lock()
        self._ordered.acquire()
        self._argv = self._environment = _array([])
        self._pid = ctypes.c_int(0)
        self._error = 0
        thread.start(self._run, "starting bypassd")

    def _prepare(self) -> None:
        """A process group of its own, no signal blocked, SIGHUP not ignored as in the keeper."""
        libc, attributes = self._libc, self._attributes
        none, hangup = (ctypes.create_string_buffer(_SIGSET_BYTES) for _ in range(2))
        for signals in (none, hangup):
            libc.sigemptyset(signals)
        libc.sigaddset(hangup, signal.SIGHUP)
        libc.posix_spawnattr_init(attributes)
        libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETPGROUP | _SETSIGDEF | _SETSIGMASK))
        libc.posix_spawnattr_setpgroup(attributes, 0)
        libc.posix_spawnattr_setsigmask(attributes, none)
        libc.posix_spawnattr_setsigdefault(attributes, hangup)

    def fileno(self) -> int:
        """Readable when the start succeeded or failed."""
        return self._done

    def start(self, argv: list[str], environment: dict[str, str]) -> None:
        """Start `argv`, which inherits the inheritable descriptors. Returns at once; the result comes later."""
        self._argv = _array(argv)
        self._environment = _array([f"{name}={value}" for name, value in environment.items()])
        self._ordered.release()

    def result(self) -> int:
        """The process id; OSError says why the program cannot be started."""
        os.eventfd_read(self._done)
        if self._error:
            raise OSError(self._error, os.strerror(self._error))
        return self._pid.value

    def _run(self) -> None:
        while True:
            self._ordered.acquire()
            argv, pid = self._argv, ctypes.byref(self._pid)
            self._error = self._libc.posix_spawn(pid, argv[0], None, self._attributes, argv, self._environment)
            os.eventfd_write(self._done, 1)


def _array(words: list[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)
