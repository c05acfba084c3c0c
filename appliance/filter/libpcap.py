# SPDX-License-Identifier: GPL-2.0-only
"""libpcap through ctypes: from a filter's text to classic BPF, and libpcap's own verdict on a frame.

Owns one handle from pcap_open_dead (Ethernet, no device) for the life of the process. Every call into libpcap holds one
lock, because compiling sets the handle's error text. No privileges needed.
"""

from __future__ import annotations

import ctypes
import re
import threading
from functools import cache
from typing import Any

from appliance.errors import FilterError
from appliance.filter import names
from appliance.filter.classic import Instruction

LINK_TYPE_ETHERNET = 1
SNAPSHOT_LENGTH = 262144
NETMASK_UNKNOWN = 0xFFFFFFFF
_LIBRARY_NAMES = ("libpcap.so.1", "libpcap.so.0.8", "libpcap.so")
_PROBE = "99999999999999"  # the scanner refuses it with an error of its own, as a number past 32 bits
_TOKEN = re.compile(r"\s*(&&|\|\||<<|>>|[<>!=]=|[\w.:/\\-]+|\S)")

_lock = threading.RLock()


class _Insn(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Insn)))


class _Header(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    )


@cache
def _library() -> ctypes.CDLL:
    for name in _LIBRARY_NAMES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise FilterError("libpcap is not installed (looked for " + ", ".join(_LIBRARY_NAMES) + ")")
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
    library.pcap_compile.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint32,
    )
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = (ctypes.c_void_p,)
    library.pcap_freecode.argtypes = (ctypes.POINTER(_Program),)
    library.pcap_freecode.restype = None
    library.pcap_offline_filter.argtypes = (ctypes.POINTER(_Program), ctypes.POINTER(_Header), ctypes.c_char_p)
    library.pcap_lib_version.restype = ctypes.c_char_p
    return library


@cache
def _handle() -> ctypes.c_void_p:
    return ctypes.c_void_p(_library().pcap_open_dead(LINK_TYPE_ETHERNET, SNAPSHOT_LENGTH))


def version() -> str:
    """libpcap's own version line."""
    text: bytes = _library().pcap_lib_version()
    return text.decode()


def _compile(text: str, optimise: bool = False) -> tuple[tuple[Instruction, ...], str]:
    library, handle, program = _library(), _handle(), _Program()
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (), str(error)
    if library.pcap_compile(handle, ctypes.byref(program), raw, int(optimise), NETMASK_UNKNOWN) != 0:
        return (), library.pcap_geterr(handle).decode("utf-8", "replace").strip()
    try:
        insns = program.instructions
        return tuple([Instruction(i.code, i.jt, i.jf, i.k) for i in insns[: program.length]]), ""
    finally:
        library.pcap_freecode(ctypes.byref(program))


def compile_text(text: str, *, optimise: bool = False) -> tuple[Instruction, ...]:
    """Classic instructions of a filter; FilterError quotes libpcap and points at the place.

    `optimise`: by libpcap's optimiser, which miscompiles some filters. Names of hosts are refused before libpcap would
    have them resolved.
    """
    if "\0" in text:
        raise FilterError("a filter cannot hold a NUL character", text=text, column=text.index("\0"))
    names.check(text)
    with _lock:
        instructions, message = _compile(text, optimise)
        if instructions:
            return instructions
        raise FilterError(f"libpcap: {message}", text=text, column=_place(text, message))


def _place(text: str, message: str) -> int | None:
    """Column of what libpcap complains about, or None. Called with the lock held."""
    quoted = re.search(r"""["'](.+?)["']""", message)
    if quoted and quoted[1] in text:
        return text.index(quoted[1])
    tokens = list(_TOKEN.finditer(text))
    if "syntax error" not in message:
        named = [t for t in tokens if len(t[1]) > 1 and t[1] in message.split()]
        return named[-1].start(1) if named else None
    # The parser looks one token ahead: cut the text after each token and add one that the scanner itself refuses.
    # While that is what libpcap complains of, everything before it was acceptable.
    for token in tokens:
        _, found = _compile(text[: token.end()] + " " + _PROBE)
        if "syntax error" in found:
            return token.start(1)
    return len(text)


def make_program(instructions: tuple[Instruction, ...]) -> Any:
    """The instructions as libpcap's struct, for `run`; keep it as long as it is used."""
    array = (_Insn * len(instructions))(*[_Insn(*i) for i in instructions])
    program = _Program(len(instructions), ctypes.cast(array, ctypes.POINTER(_Insn)))
    program.kept_alive = array
    return program


def run(program: Any, frame: bytes, wire_length: int | None = None) -> int:
    """libpcap's own verdict (`pcap_offline_filter`) on the given instructions: the tests' oracle. 0 = no match."""
    length = len(frame) if wire_length is None else wire_length
    header = _Header(0, 0, len(frame), length)
    return int(_library().pcap_offline_filter(ctypes.byref(program), ctypes.byref(header), frame))
