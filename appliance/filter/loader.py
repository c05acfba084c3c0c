# SPDX-License-Identifier: GPL-2.0-only
"""Generated programs into the kernel, through libbpf: load, map, test run. Needs CAP_BPF (root).

A `LoadedSet` owns its file descriptors until `close`. Makes no decisions: those are the caller's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from appliance import progress
from appliance.errors import DatapathError
from appliance.filter.frame_reader import Kind
from appliance.filter.linkage import LoadableProgram
from appliance.system import libbpf
from appliance.system.processor_limit import processor_limit

PROG_TYPE = {"tc": 3, "xdp": 6}
ATTACH_TYPE = {"tc": 0, "xdp": 37}  # BPF_XDP: tail calls are refused between programs that differ in it
XDP_HAS_FRAGS = 1 << 5
MAP_ARRAY, MAP_PROG_ARRAY, MAP_PERCPU_ARRAY = 2, 3, 6
MAP_READ_ONLY_PROGRAM = 1 << 7
LOG_BYTES = 1 << 20
MAX_VERIFIER_S = 2.0  # of processor time, for one program; sets of 1,024 usual rules take less than 0.1 s
TOO_COMPLEX = (errno.E2BIG, errno.EFAULT, errno.ENOMEM, errno.ENOSPC)  # errno of a program that is too long to verify


class TooComplexError(DatapathError):
    """The verifier gave up on the program's size, not on what it does: split it."""


def update(fd: int, key: int, value: bytes) -> None:
    """Set one entry of an array; for a program array the value is the program's descriptor as 4 bytes."""
    error = libbpf.library().bpf_map_update_elem(fd, struct.pack("=I", key), value, libbpf.BPF_ANY)
    libbpf.check(f"map entry {key}", error)


def lookup(fd: int, key: int, size: int) -> bytes:
    """One entry of an array (per-CPU: of all CPUs, each rounded up to 8 bytes)."""
    value = ctypes.create_string_buffer(size)
    libbpf.check(f"map entry {key}", libbpf.library().bpf_map_lookup_elem(fd, struct.pack("=I", key), value))
    return value.raw


def create_table(data: bytes, name: str = "filter_tables") -> int:
    """A read-only array map of one value that holds the bytes."""
    fd = libbpf.create_map(MAP_ARRAY, name, 4, (len(data) + 7) & ~7, 1, flags=MAP_READ_ONLY_PROGRAM)
    update(fd, 0, data.ljust((len(data) + 7) & ~7, b"\0"))
    libbpf.library().bpf_map_freeze(fd)
    return fd


def load_program(program: LoadableProgram, kind: Kind, maps: dict[str, int], attach_type: int | None = None) -> int:
    """The program's descriptor; TooComplexError when it should be split, DatapathError with the verifier's words.

    The verifier gets at most MAX_VERIFIER_S: how long it takes follows from how a program branches and not from its
    size, and without a bound a commit, or the start of bypassd, waits for minutes.
    """
    code = bytearray(program.code)
    for at, name in program.relocations:
        struct.pack_into("<i", code, at * 8 + 4, maps[name])
    options = libbpf.ProgramLoadOptions(sz=ctypes.sizeof(libbpf.ProgramLoadOptions), attempts=1)
    options.expected_attach_type = ATTACH_TYPE[kind] if attach_type is None else attach_type
    options.prog_flags = XDP_HAS_FRAGS if kind == "xdp" else 0
    what = f"program {program.name} ({program.instructions} instructions)"

    def attempt() -> int:
        with processor_limit(MAX_VERIFIER_S) as over:
            while True:
                fd: int = libbpf.library().bpf_prog_load(
                    PROG_TYPE[kind],
                    program.name.encode()[:15],
                    b"GPL",
                    bytes(code),
                    len(code) // 8,
                    ctypes.byref(options),
                )
                if fd != -errno.EAGAIN:
                    return fd
                if over():
                    raise TooComplexError(f"{what}: the kernel takes more than {MAX_VERIFIER_S:g} s to verify it")
                # else another signal came meanwhile

    fd = attempt()
    progress.step()
    if fd >= 0:
        return fd
    if fd == -errno.E2BIG:  # more instructions than a program may have, or than the verifier looks at
        raise TooComplexError(f"{what}: the kernel cannot verify so many instructions and branches")
    log = ctypes.create_string_buffer(LOG_BYTES)
    options.log_buf, options.log_size, options.log_level = ctypes.cast(log, ctypes.c_char_p), LOG_BYTES, 1
    again = attempt()
    if again >= 0:
        return again
    text = log.value.decode("utf-8", "replace").strip()
    last = text.splitlines()[-3:] if text else ["no log"]
    what = f"{what}: {os.strerror(-fd)}: {' | '.join(last)}"
    if "too complex" in text or "too large" in text or "too many" in text or -fd in TOO_COMPLEX:
        raise TooComplexError(what)
    raise DatapathError(what)


@dataclass(frozen=True)
class TestResult:
    """One test run: the program's return value and the mean time in nanoseconds."""

    value: int
    duration_ns: int


def run_once(fd: int, frame: bytes, *, repeat: int = 1, context: bytes | None = None) -> TestResult:
    """BPF_PROG_TEST_RUN over one frame (14 bytes or more)."""
    run = tester(fd)
    return run(frame, repeat, context)


def tester(fd: int) -> Callable[[bytes, int, bytes | None], TestResult]:
    """A test run that reuses its structures, for many frames."""
    options: Any = libbpf.TestRunOptions(sz=ctypes.sizeof(libbpf.TestRunOptions))
    call, pointer = libbpf.library().bpf_prog_test_run_opts, ctypes.byref(options)

    def run(frame: bytes, repeat: int = 1, context: bytes | None = None) -> TestResult:
        held = ctypes.c_char_p(frame)
        options.data_in, options.data_size_in = ctypes.cast(held, ctypes.c_void_p), len(frame)
        held_context = ctypes.c_char_p(context)
        options.ctx_in = ctypes.cast(held_context, ctypes.c_void_p) if context else None
        options.ctx_size_in = len(context) if context else 0
        options.data_size_out = options.ctx_size_out = 0  # the kernel writes sizes back, and refuses them the next time
        options.repeat, options.retval, options.duration = repeat, 0, 0
        libbpf.check(f"test run over {len(frame)} bytes", call(fd, pointer))
        return TestResult(options.retval, options.duration)

    return run


def close(*descriptors: int) -> None:
    """Close what is open."""
    for fd in descriptors:
        with suppress(OSError):
            os.close(fd)
