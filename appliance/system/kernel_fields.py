# SPDX-License-Identifier: GPL-2.0-only
"""Offsets of some fields in the running kernel's structures, for programs at its tracepoints.

They can be found without BTF: the kernel rewrites a program that reads a field of its context into one that reads the
underlying structure, and the rewritten program can be read back. Fields that need BTF are left out if there is none. No
state; needs root. Source: bpf_convert_ctx_access and tc_cls_act_convert_ctx_access in the kernel's net/core/filter.c.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from appliance.errors import DatapathError
from appliance.system import libbpf

_INGRESS_IFINDEX, _IFINDEX = 36, 40  # in struct __sk_buff, <linux/bpf.h>
_LOAD_WORD, _LOAD_LONG, _EXIT = 0x61, 0x79, 0x95  # BPF_LDX | BPF_MEM | BPF_W, BPF_DW; BPF_EXIT
_INSTRUCTION = struct.Struct("<BBhi")


class Fields(NamedTuple):
    """Offsets in bytes. The last two are 0 if the kernel has no BTF."""

    device_ifindex: int  # of struct net_device
    frame_device: int  # of struct sk_buff
    frame_ingress: int
    device_namespace: int = 0  # of struct net_device: its struct net
    namespace_number: int = 0  # of struct net: the inode number in /proc/PID/ns/net


def find() -> Fields:
    """Determine the offsets from the running kernel. DatapathError: not possible."""
    ingress = _loads(_INGRESS_IFINDEX)
    device = _loads(_IFINDEX)
    if [size for size, _ in ingress] != [_LOAD_WORD] or [size for size, _ in device] != [_LOAD_LONG, _LOAD_WORD]:
        raise DatapathError("the kernel reads a frame's device in an unknown way")
    return Fields(device[1][1], device[0][1], ingress[0][1], *_from_btf())


def _loads(offset: int) -> list[tuple[int, int]]:
    """How the kernel rewrites a read of this field of a frame's context: (size, offset) of each resulting read."""
    code = _INSTRUCTION.pack(_LOAD_WORD, 0x10, offset, 0) + _INSTRUCTION.pack(_EXIT, 0, 0, 0)
    made = libbpf.translated(code, libbpf.BPF_PROG_TYPE_SCHED_CLS)
    instructions = [_INSTRUCTION.unpack_from(made, at) for at in range(0, len(made), _INSTRUCTION.size)]
    return [(code, at) for code, _, at, _ in instructions if code in (_LOAD_WORD, _LOAD_LONG)]


def _from_btf() -> tuple[int, int]:
    found = libbpf.members({("net_device", "nd_net"), ("net", "ns"), ("ns_common", "inum")})
    if len(found) < 3:
        return 0, 0
    return found["net_device", "nd_net"], found["net", "ns"] + found["ns_common", "inum"]
