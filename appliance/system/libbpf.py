# SPDX-License-Identifier: GPL-2.0-only
"""The only binding of libbpf, through ctypes: the functions that we need, with readable errors.

Owns no state except the loaded library; file descriptors are plain integers that the caller closes. Works with libbpf
1.1 and newer. Source of the signatures: <bpf/bpf.h> and <bpf/libbpf.h>. Most calls need root.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from appliance.errors import DatapathError

BPF_XDP = 37  # enum bpf_attach_type
BPF_TCX_INGRESS = 46
XDP_FLAGS_SKB = 1 << 1
XDP_FLAGS_DRIVER = 1 << 2
BPF_PROG_TYPE_SOCKET_FILTER = 1
BPF_PROG_TYPE_SCHED_CLS = 3
BPF_PROG_TYPE_RAW_TRACEPOINT = 17
BPF_F_BEFORE = 1 << 3  # TCX: before all programs if none is named
_BTF_STRUCT = 4  # BTF_KIND_STRUCT
BPF_ANY = 0
BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY = 1, 2
BPF_MAP_TYPE_RINGBUF = 27
BPF_F_INNER_MAP = 1 << 12

MAX_ATTACHED = 64  # programs of one device and hook: BPF_MPROG_MAX

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_said: list[str] = []
_T = TypeVar("_T", bound=ctypes.Structure)


class _LinkOptions(ctypes.Structure):
    _fields_ = (("sz", c_size_t), ("flags", c_uint32), ("pad", c_uint32), ("rest", c_uint64 * 3))


class _MapOptions(ctypes.Structure):
    """struct bpf_map_create_opts; only the flags are used."""

    _fields_ = (
        ("sz", c_size_t),
        ("btf", c_uint32 * 4),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
        ("map_extra", c_uint64),
        ("rest", c_uint32 * 2),
    )


class ProgramLoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_uint32),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_char_p),
    )


class TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class _QueryOptions(ctypes.Structure):
    """struct bpf_prog_query_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("query_flags", c_uint32),
        ("attach_flags", c_uint32),
        ("prog_ids", c_void_p),
        ("prog_cnt", c_uint32),
        ("pad", c_uint32),
        ("prog_attach_flags", c_void_p),
    )


class LinkInfo(ctypes.Structure):
    """The head of struct bpf_link_info, as filled for XDP and TCX links."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("pad", c_uint32),
        ("ifindex", c_uint32),
        ("attach_type", c_uint32),
    )


class ProgramInfo(ctypes.Structure):
    """The head of struct bpf_prog_info."""

    _fields_ = (("type", c_uint32), ("id", c_uint32), ("tag", ctypes.c_uint8 * 8), ("jited", c_uint32))


class _Translation(ctypes.Structure):
    """The head of struct bpf_prog_info, up to the translated program."""

    _fields_ = (
        ("head", c_uint64 * 2),
        ("jited_bytes", c_uint32),
        ("bytes", c_uint32),
        ("jited_code", c_uint64),
        ("code", c_uint64),
    )


class _BtfType(ctypes.Structure):
    """struct btf_type; for a structure, its members follow."""

    _fields_ = (("name", c_uint32), ("info", c_uint32), ("size", c_uint32))


class _BtfMember(ctypes.Structure):
    """struct btf_member."""

    _fields_ = (("name", c_uint32), ("type", c_uint32), ("offset", c_uint32))


class MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("flags", c_uint32),
    )


def _listen(level: int, form: bytes, arguments: int) -> int:
    """Keep libbpf's messages: they contain the verifier's log, which only matters if a load fails."""
    if level <= 1:  # warnings and information
        text = ctypes.create_string_buffer(1 << 16)
        ctypes.CDLL(None).vsnprintf(text, c_size_t(len(text)), form, c_void_p(arguments))
        _said.append(text.value.decode(errors="replace"))
        del _said[:-50]
    return 0


_listener = _PRINT(_listen)  # kept: libbpf calls it as long as the process lives


@cache
def library() -> ctypes.CDLL:
    """The shared library with typed functions; DatapathError if it is not installed."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise DatapathError("libbpf.so.1 is missing: install libbpf1") from error
    pointers: dict[str, tuple[Any, ...]] = {
        "bpf_object__open_file": (c_char_p, c_void_p),
        "bpf_object__find_map_by_name": (c_void_p, c_char_p),
        "bpf_object__find_program_by_name": (c_void_p, c_char_p),
        "ring_buffer__new": (c_int, _SAMPLE, c_void_p, c_void_p),
        "btf__load_vmlinux_btf": (),
        "btf__type_by_id": (c_void_p, c_uint32),
    }
    numbers: dict[str, tuple[Any, ...]] = {
        "bpf_object__load": (c_void_p,),
        "bpf_map__fd": (c_void_p,),
        "bpf_map__set_pin_path": (c_void_p, c_char_p),
        "bpf_map__reuse_fd": (c_void_p, c_int),
        "bpf_map__type": (c_void_p,),
        "bpf_map__key_size": (c_void_p,),
        "bpf_map__value_size": (c_void_p,),
        "bpf_map__max_entries": (c_void_p,),
        "bpf_program__fd": (c_void_p,),
        "bpf_map_get_fd_by_id": (c_uint32,),
        "bpf_prog_get_fd_by_id": (c_uint32,),
        "bpf_obj_pin": (c_int, c_char_p),
        "bpf_obj_get": (c_char_p,),
        "bpf_map_lookup_elem": (c_int, c_void_p, c_void_p),
        "bpf_map_update_elem": (c_int, c_void_p, c_void_p, c_uint64),
        "bpf_map_delete_elem": (c_int, c_void_p),
        "bpf_map_lookup_batch": (c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p),
        "bpf_map_update_batch": (c_int, c_void_p, c_void_p, POINTER(c_uint32), c_void_p),
        "bpf_raw_tracepoint_open": (c_char_p, c_int),
        "bpf_program__set_autoload": (c_void_p, ctypes.c_bool),
        "libbpf_probe_bpf_prog_type": (c_int, c_void_p),
        "bpf_link_create": (c_int, c_int, c_int, POINTER(_LinkOptions)),
        "bpf_link_update": (c_int, c_int, c_void_p),
        "bpf_link_detach": (c_int,),
        "bpf_prog_query_opts": (c_int, c_int, POINTER(_QueryOptions)),
        "bpf_prog_test_run_opts": (c_int, POINTER(TestRunOptions)),
        "bpf_obj_get_info_by_fd": (c_int, c_void_p, POINTER(c_uint32)),
        "libbpf_num_possible_cpus": (),
        "bpf_map_create": (c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p),
        "bpf_map_freeze": (c_int,),
        "bpf_prog_load": (c_int, c_char_p, c_char_p, c_char_p, c_size_t, POINTER(ProgramLoadOptions)),
        "btf__find_by_name_kind": (c_void_p, c_char_p, c_uint32),
        "ring_buffer__consume": (c_void_p,),
        "ring_buffer__epoll_fd": (c_void_p,),
    }
    for name, arguments in pointers.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, c_void_p
    for name, arguments in numbers.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, c_int
    for name in ("bpf_object__close", "ring_buffer__free", "btf__free"):
        getattr(lib, name).argtypes, getattr(lib, name).restype = (c_void_p,), None
    lib.btf__name_by_offset.argtypes, lib.btf__name_by_offset.restype = (c_void_p, c_uint32), c_char_p
    lib.libbpf_set_print.argtypes, lib.libbpf_set_print.restype = (_PRINT,), c_void_p
    lib.libbpf_set_print(_listener)
    return lib


def fail(what: str, number: int) -> DatapathError:
    """The error of a libbpf function that returned `number` (negative errno), in one line."""
    code = -number if number < 0 else ctypes.get_errno()
    hint = {1: " (root is needed)", 12: " (out of memory, or a memlock limit)"}.get(code, "")
    return DatapathError(f"{what}: {os.strerror(code)}{hint}", code)


def check(what: str, number: int) -> int:
    """Return `number` if it is no error, raise otherwise."""
    if number < 0:
        raise fail(what, number)
    return number


def forget_messages() -> None:
    """Call before a load, so that `verifier_says` returns only its messages."""
    _said.clear()


def verifier_says() -> str:
    """The last lines that libbpf printed: why a program was refused."""
    lines = [line for text in _said for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("processed ", "--", "libbpf: failed to load object"))]
    return "; ".join(line.strip() for line in telling[-3:])


def pin(fd: int, path: Path) -> None:
    """Pin a map, program or link at `path` on a bpffs."""
    check(f"pin {path}", library().bpf_obj_pin(fd, str(path).encode()))


def get_pinned(path: Path) -> int:
    """A descriptor of the object pinned at `path`."""
    return check(f"open {path}", library().bpf_obj_get(str(path).encode()))


def raw_tracepoints_work() -> bool:
    """Whether the kernel runs programs at its tracepoints (CONFIG_BPF_EVENTS)."""
    return int(library().libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_RAW_TRACEPOINT, None)) == 1


def attach_raw_tracepoint(name: str, program_fd: int) -> int:
    """Attach a program to a tracepoint; returns the link's descriptor. Detached when neither open nor pinned."""
    return check(f"attach to {name}", library().bpf_raw_tracepoint_open(name.encode(), program_fd))


def link_create(program_fd: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
    """Attach to a network device; returns the link's descriptor. Detached when neither open nor pinned."""
    options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), flags=flags)
    return check("attach", library().bpf_link_create(program_fd, ifindex, attach_type, ctypes.byref(options)))


def link_update(link_fd: int, program_fd: int) -> None:
    """Replace the link's program; no frame is lost."""
    check("replace program", library().bpf_link_update(link_fd, program_fd, None))


def link_detach(link_fd: int) -> None:
    """Detach now, even if others hold the link."""
    check("detach", library().bpf_link_detach(link_fd))


def attached_programs(ifindex: int, attach_type: int) -> list[int]:
    """The ids of the programs attached to a network device at this hook (TCX), in execution order."""
    ids = (c_uint32 * MAX_ATTACHED)()
    options = _QueryOptions(sz=ctypes.sizeof(_QueryOptions), prog_ids=ctypes.addressof(ids), prog_cnt=MAX_ATTACHED)
    check("attached programs", library().bpf_prog_query_opts(ifindex, attach_type, ctypes.byref(options)))
    return list(ids[: options.prog_cnt])


def info(fd: int, into: _T) -> _T:
    """Fill one of the *Info structures."""
    size = c_uint32(ctypes.sizeof(into))
    check("object info", library().bpf_obj_get_info_by_fd(fd, ctypes.byref(into), ctypes.byref(size)))
    return into


def load(code: bytes, program_type: int, name: str) -> int:
    """Load a program of so many instructions; the caller closes it. DatapathError: it is refused."""
    options = ProgramLoadOptions(sz=ctypes.sizeof(ProgramLoadOptions), attempts=1)
    call = library().bpf_prog_load
    return check("load", call(program_type, name.encode(), b"GPL", code, len(code) // 8, ctypes.byref(options)))


def translated(code: bytes, program_type: int) -> bytes:
    """The translated program that the kernel runs. DatapathError: it is refused, or not shown."""
    fd = load(code, program_type, "fields")
    try:
        room = ctypes.create_string_buffer(4096)
        about = info(fd, _Translation(bytes=len(room), code=ctypes.addressof(room)))
    finally:
        os.close(fd)
    if not about.code or about.bytes > len(room):
        raise DatapathError("the kernel does not show its programs")
    return room.raw[: about.bytes]


def members(wanted: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Offsets in bytes of (structure, member) in the running kernel, without those that its BTF does not have."""
    lib = library()
    btf = lib.btf__load_vmlinux_btf()
    if not btf:
        return {}
    found: dict[tuple[str, str], int] = {}
    try:
        for structure in {structure for structure, _ in wanted}:
            number = lib.btf__find_by_name_kind(btf, structure.encode(), _BTF_STRUCT)
            if number < 0:
                continue
            about = _BtfType.from_address(lib.btf__type_by_id(btf, number))
            place = ctypes.addressof(about) + ctypes.sizeof(about)
            for member in (_BtfMember * (about.info & 0xFFFF)).from_address(place):
                key = (structure, lib.btf__name_by_offset(btf, member.name).decode())
                if key in wanted:
                    found[key] = (member.offset & 0xFFFFFF if about.info >> 31 else member.offset) // 8
    finally:
        lib.btf__free(btf)
    return found


def create_map(kind: int, name: str, key_size: int, value_size: int, entries: int, *, flags: int = 0) -> int:
    """A new map's descriptor; the map is freed with its last user."""
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=flags)
    made = library().bpf_map_create(kind, name.encode(), key_size, value_size, entries, ctypes.byref(options))
    return check(f"map {name} of {value_size} x {entries} bytes", made)


def create_inner_array(name: str, value_size: int, entries: int) -> int:
    """The descriptor of an array that fits into an array of maps whatever its size."""
    return create_map(BPF_MAP_TYPE_ARRAY, name, 4, value_size, entries, flags=BPF_F_INNER_MAP)


def create_inner_hash(name: str, key_size: int, value_size: int, entries: int) -> int:
    """The descriptor of a hash table that fits into an array of maps whatever its size."""
    return create_map(BPF_MAP_TYPE_HASH, name, key_size, value_size, entries)


def map_by_id(number: int) -> int:
    """A descriptor of a map by its id."""
    return check(f"map {number}", library().bpf_map_get_fd_by_id(number))


def program_by_id(number: int) -> int:
    """A descriptor of a program by its id."""
    return check(f"program {number}", library().bpf_prog_get_fd_by_id(number))


def possible_cpus() -> int:
    """The number of values in an entry of a per-CPU map."""
    return check("possible CPUs", library().libbpf_num_possible_cpus())


def run_frame(program_fd: int, frame: bytes, repeat: int = 1, context: bytes = b"") -> tuple[int, bytes, int]:
    """Run a program on a frame (at least 14 bytes). Returns its result, the resulting frame, and ns per repeat."""
    out = ctypes.create_string_buffer(len(frame) + 256)
    data = ctypes.create_string_buffer(frame, len(frame))
    ctx = ctypes.create_string_buffer(context, len(context)) if context else None
    options = TestRunOptions(
        sz=ctypes.sizeof(TestRunOptions),
        data_in=ctypes.addressof(data),
        data_size_in=len(frame),
        data_out=ctypes.addressof(out),
        data_size_out=len(out),
        ctx_in=ctypes.addressof(ctx) if ctx else None,
        ctx_size_in=len(context),
        repeat=repeat,
    )
    check("test run", library().bpf_prog_test_run_opts(program_fd, ctypes.byref(options)))
    return options.retval, out.raw[: options.data_size_out], options.duration


def create_ring(name: str, size: int) -> int:
    """The descriptor of a ring buffer of `size` bytes (a power of two, whole pages), freed with its last user."""
    return create_map(BPF_MAP_TYPE_RINGBUF, name, 0, 0, size)


class Ring:
    """The reading end of a ring buffer, mapped into this process. Owns the mapping, not the descriptor."""

    AT_ONCE = 4096  # most records that one `read` returns

    def __init__(self, fd: int) -> None:
        self._records: list[bytes] = []
        self._callback = _SAMPLE(self._sample)  # kept: libbpf calls it
        self._ring = library().ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            raise fail("ring", 0)

    def _sample(self, _: int | None, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return -1 if len(self._records) >= self.AT_ONCE else 0

    def fileno(self) -> int:
        """A descriptor that is readable while records wait."""
        return check("ring", library().ring_buffer__epoll_fd(self._ring))

    def read(self) -> list[bytes]:
        """The waiting records, in order; their space in the ring is freed."""
        self._records = []
        library().ring_buffer__consume(self._ring)
        return self._records

    def close(self) -> None:
        """Unmap."""
        library().ring_buffer__free(self._ring)
