# SPDX-License-Identifier: GPL-2.0-only
"""What the datapath and user space share, as Python sees it: the numbers and structs of `appliance/bpf/steer.h`.

steer.h is the original and explains each of them; tests/unit/steering/test_layout.py compares every constant, and
tests/datapath compares the size of every struct with the map that holds it. Pure data, no state.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum

LAYOUT_VERSION = 7

MAX_SEGMENTS = 16
MAX_HOPS = 128
MAX_GROUPS = 64
MAX_RULES = 4096
MAX_PATH = 8
MAX_MEMBERS = 8
MAX_MIRRORS = 4
BUCKETS = 1024
MAX_DEVICES = 65536
MAX_SLOTS = 4096
SLOT_UNKNOWN = 4096
MAX_TRACE = 64
MAX_FLOWS = 262144
MAX_NEW_FLOWS = 65536
CALM_FLOWS = 65536
MAX_FRAGMENTS = 16384
MAX_COPIES = 8
COPY_BYTES = 16384
COPY_INSTRUCTIONS = 4096
RECORD_BYTES = 2016
MAX_THREADS = 4096
MAX_SHUNTS = 65536
MAX_IP_DEVICES = 512
MAX_HEADERS = 32768
MAX_ENCAPS = 256
LEASE_OVER = 1
MAX_ACCEPTS = 64  # bits of scratch.accept

ENCAP_CONFIRM_NS = 1_000_000_000
ENCAP_PLACES = 16

NO_MATCH = 0xFFFFFFFF
NO_ACCEPT_BIT = 255

HEARTBEAT_NEIGHBOUR = 0x02545700
HEARTBEAT_KEY_AT = 16
ETH_TAG = 0x88A8
TAG_OUT = 0
TAG_NEXT = 4000
TAG_OUT_LAN = 4001
TAG_OUT_WAN = 4002
TAG_SHUNT = 4003
TAG_SHUNT_ONE = 4004

FLOW_CLOSED = 3
FLOW_FRAME = 4
FLOW_BOTH = 12
FLOW_RESET = 16
FLOW_FAILED = 64
FLOW_REFRESH_NS = 1_000_000_000
FLOW_CLOSED_NS = 2_000_000_000
FLOW_IDLE_NS = 300_000_000_000
COARSE_NS = 20_000_000
RESET_NS = 100_000
RESET_BURST_NS = 100_000_000
FRAGMENT_NS = 2_000_000_000
FRAGMENT_PAIR = 0x10000
FRAGMENT_PAIR_NS = 60_000_000_000
FRAGMENT_SEGMENT_SHIFT = 24
GATE_BURST_NS = 10_000_000
SHUNT_BURST_NS = 1_000_000_000

PROGRAM_DISPATCH = 0
PROGRAM_WALK = 1
PROGRAM_REMEMBER = 4
PROGRAM_COPYING = 5
PROGRAM_ENTRY = 6
PROGRAM_FRAGMENT = 7
PROGRAM_FOUND = 48
PROGRAM_ONWARD = 51
PROGRAM_SHUNTS = 49
PROGRAM_SHUNT = 50
PROGRAM_RESET = 56
PROGRAM_SLOTS = 896
NOT_HERE = 0xFFFFFFFE
CACHE_ENTRIES = 4096
CACHE_IPV6 = 0x100
CACHE_SEGMENT_SHIFT = 16
CACHE_USED = 0x80000000
ACCEPT_PARTS = 4
POLICY_PARTS = 24

DEVICE_TAGS = 1
DEVICE_TRACE = 2
DEVICE_DRY = 4
DEVICE_COPY_IN = 8
DEVICE_COPY_OUT = 16
TARGET_SG = 1
RULE_BLOCK = 1
RULE_ACCEPT = 2
RULE_HASH = 4
RULE_ALL = 8
SEGMENT_LINK_LOCAL = 1
SEGMENT_FRAGMENTS = 2
SEGMENT_DRY_RUN = 4
RULE_EXCESS_BLOCK = 16
RULE_OVERLOAD_BYPASS = 32
SHUNTS_POSSIBLE = 1
SHUNTS_KEPT = 2
SHUNTS_UNKNOWN = 4
RULE_RESET = 64
GROUP_STANDBY = 1
GROUP_LONG = 2
GROUP_KEEP = 4
GROUP_RESET = 8
REASON_PLACES = 16
HOP_TRACKED = 1
HOP_RECORDED = 2
HOP_TAGS = 4
HOP_SHUNTS = 64
SHUNT_TAG = 0x1000
SHUNT_AD = 0x2000
SHUNT_IPV6 = 0x80
SHUNT_HITS = 1024


def slot(hop: int, segment: int, side: int) -> int:
    """The slot of a port (hop 0) or of a hop's tap."""
    return hop * 32 + segment * 2 + side


def program_accept(generation: int) -> int:
    """Slot of the program that determines which `accept` filters match."""
    return 2 + (generation & 1)


def program_policy(generation: int, segment: int) -> int:
    """Slot of the program that finds the rule."""
    return 8 + (generation & 1) * MAX_SEGMENTS + segment


def program_filters(generation: int, segment: int) -> int:
    """Slot of the program that finds the rule if the flow cache comes before it."""
    return 832 + (generation & 1) * MAX_SEGMENTS + segment


def program_decide(generation: int, segment: int) -> int:
    """Slot of the program that combines the segment's filters and the core, if there is one."""
    return 864 + (generation & 1) * MAX_SEGMENTS + segment


def accept_parts(generation: int) -> range:
    """Slots of the programs in which the accept program may continue."""
    first = 40 + (generation & 1) * ACCEPT_PARTS
    return range(first, first + ACCEPT_PARTS)


def policy_parts(generation: int, segment: int) -> range:
    """Slots of the programs in which a segment's policy program may continue."""
    first = 64 + ((generation & 1) * MAX_SEGMENTS + segment) * POLICY_PARTS
    return range(first, first + POLICY_PARTS)


class Side(IntEnum):
    """A side of a segment, and so of a tap. A direction has the number of the side it comes from: 0 = LAN to WAN."""

    LAN = 0
    WAN = 1


class Role(IntEnum):
    NONE = 0
    PORT = 1
    HOP = 2


class Item(IntEnum):
    NONE = 0
    HOP = 1
    GROUP = 2


class Continuation(IntEnum):
    """How a frame that returns from a hop continues; see steer.h."""

    NONE = 0
    END = 1
    STATIC = 2
    CLASSIFY = 3
    MIRROR = 4


class Outcome(IntEnum):
    """What happened to a frame; each is counted once, under the device where it arrived."""

    STRAIGHT = 0
    TO_HOP = 1
    BYPASSED = 2
    OUT = 3
    HEARTBEAT = 4
    BLOCKED = 5
    UNPARSED = 6
    NO_DEVICE = 7
    OVERSIZE = 8
    NO_PROGRAM = 9
    UNKNOWN = 10
    LINK_LOCAL = 11
    EXCESS = 12
    RESET = 13
    SHUNTED = 14
    DRY_RUN = 15
    MIRROR = 16


OUTCOME_PLACES = 20
LEAVING = (Outcome.STRAIGHT, Outcome.BYPASSED, Outcome.OUT, Outcome.UNPARSED, Outcome.NO_PROGRAM, Outcome.LINK_LOCAL,
           Outcome.SHUNTED, Outcome.DRY_RUN)  # fmt: skip
"""Outcomes of frames that leave through a port of the segment."""
DROPS = (Outcome.BLOCKED, Outcome.NO_DEVICE, Outcome.OVERSIZE, Outcome.EXCESS, Outcome.RESET, Outcome.MIRROR)


class Loss(IntEnum):
    """Why a frame on its way to a device was not sent by it."""

    FULL = 0
    NO_READER = 1
    DOWN = 2
    OVERSIZE = 3
    UNFIT = 4
    QUEUE = 5
    GONE = 6
    OTHER = 7


LOSS_PLACES = 10
FREED_WITHOUT_REASON = 2


class Reason(IntEnum):
    """Why a hop was skipped, or that it was taken."""

    TAKEN = 0
    UNAVAILABLE = 1
    NOT_ACCEPTED = 2
    DRAINING = 3
    OVERSIZE = 4
    HELD = 5
    SUPERVISOR = 6
    OVERLOADED = 7
    TOO_FEW = 8
    KEPT = 9
    RESET = 10
    SHUNTED = 11
    MIRRORED = 12


class CopyWay(IntEnum):
    """The direction of a copied frame: from the device, or to it."""

    IN = 0
    OUT = 1


class GroupHash(IntEnum):
    """What tells flows apart, for the choice of a group's member."""

    FIVE = 0
    THREE = 1
    TWO = 2
    SOURCE = 3
    DESTINATION = 4


class Reset(IntEnum):
    """What a frame of a flow that is reset becomes."""

    NO = 0
    NONE = 1
    ON = 2
    BACK = 3


class Verdict(IntEnum):
    NONE = 0
    PORT = 1
    HOP = 2
    DROP = 3
    STACK = 4


class DeviceValue(ctypes.Structure):
    _fields_ = (
        ("role", c_uint8),
        ("segment", c_uint8),
        ("side", c_uint8),
        ("hop", c_uint8),
        ("slot", c_uint16),
        ("flags", c_uint16),
        ("peer_max", c_uint32),
        ("peer_max_sg", c_uint32),
        ("key", c_uint32),
    )


class TargetValue(ctypes.Structure):
    _fields_ = (("ifindex", c_uint32), ("flags", c_uint32), ("max", c_uint32), ("pad", c_uint32))


class ItemValue(ctypes.Structure):
    _fields_ = (("kind", c_uint8), ("id", c_uint8))


class RuleValue(ctypes.Structure):
    _fields_ = (
        ("length", c_uint8),
        ("flags", c_uint8),
        ("counter", c_uint16),
        ("path", ItemValue * MAX_PATH),
        ("shunts", c_uint32),
        ("mirrors", c_uint16 * MAX_MIRRORS),
    )


class GroupValue(ctypes.Structure):
    _fields_ = (
        ("members", c_uint64 * 2),
        ("hold_down", c_uint64),
        ("flags", c_uint32),
        ("hash", c_uint8),
        ("minimum", c_uint8),
        ("pad", c_uint16),
    )


class HopValue(ctypes.Structure):
    _fields_ = (("accept_bit", c_uint8), ("flags", c_uint8), ("pad", c_uint16), ("pad2", c_uint32))


class SegmentValue(ctypes.Structure):
    _fields_ = (("constant_rule", c_uint32), ("flags", c_uint32))


class ContinuationValue(ctypes.Structure):
    _fields_ = (("rule", c_uint16), ("position", c_uint8), ("kind", c_uint8), ("pad", c_uint32))


class LeaseValue(ctypes.Structure):
    _fields_ = (
        ("until", c_uint64),
        ("recovered", c_uint64),
        ("draining", c_uint64),
        ("skipped", c_uint64),
        ("ended", c_uint64),
        ("overloaded", c_uint64),
    )


class GateValue(ctypes.Structure):
    _fields_ = (("cost", c_uint64), ("used", c_uint64), ("over", c_uint64))


class ControlValue(ctypes.Structure):
    _fields_ = (("policy", c_uint64),)


class OwnWaysValue(ctypes.Structure):
    _fields_ = (("longest", c_uint64 * (MAX_SEGMENTS * 2)),)


class MetaValue(ctypes.Structure):
    _fields_ = (("layout", c_uint64), ("digest", c_uint8 * 32))


class TallyValue(ctypes.Structure):
    _fields_ = (("frames", c_uint64), ("bytes", c_uint64))


class DeviceCounterValue(ctypes.Structure):
    _fields_ = (("outcome", TallyValue * OUTCOME_PLACES),)


class LossCounterValue(ctypes.Structure):
    _fields_ = (("came", c_uint64 * LOSS_PLACES), ("unsent", c_uint64 * LOSS_PLACES))


class KernelFieldsValue(ctypes.Structure):
    """Offsets in the running kernel's structures, as kernel_fields.py determines them."""

    _fields_ = (
        ("device_ifindex", c_uint32),
        ("device_namespace", c_uint32),
        ("namespace_number", c_uint32),
        ("frame_device", c_uint32),
        ("frame_ingress", c_uint32),
        ("namespaces", c_uint32),
        ("namespace", c_uint32),
        ("pad", c_uint32),
    )


class RuleCounterValue(ctypes.Structure):
    _fields_ = (
        ("matched", TallyValue),
        ("to_hop", c_uint64),
        ("bypassed", c_uint64),
        ("blocked", c_uint64),
        ("excess", c_uint64),
        ("shunted", c_uint64),
    )


class HopCounterValue(ctypes.Structure):
    _fields_ = (
        ("to", TallyValue),
        ("skipped", c_uint64 * REASON_PLACES),
        ("bad_tag", c_uint64),
        ("returned_unmatched", c_uint64),
        ("copies", TallyValue),
        ("uncopied", c_uint64),
    )


class CopyPointValue(ctypes.Structure):
    _fields_ = (("into", c_uint32), ("out", c_uint32), ("bytes", c_uint32), ("pad", c_uint32))


class InstructionValue(ctypes.Structure):
    _fields_ = (("code", c_uint16), ("jt", c_uint8), ("jf", c_uint8), ("k", c_uint32))


class CopyWishValue(ctypes.Structure):
    _fields_ = (
        ("bytes", c_uint32),
        ("instructions", c_uint32),
        ("filter", InstructionValue * COPY_INSTRUCTIONS),
    )


class CopyCounterValue(ctypes.Structure):
    _fields_ = (("copied", c_uint64), ("lost", c_uint64))


class CopiedValue(ctypes.Structure):
    """The header before the bytes of a copy in a ring."""

    _fields_ = (
        ("when", c_uint64),
        ("length", c_uint32),
        ("captured", c_uint32),
        ("slot", c_uint16),
        ("way", c_uint16),
        ("pad", c_uint32),
    )


class FlowKey(ctypes.Structure):
    _fields_ = (("hash", c_uint64), ("hop", c_uint64))


class FlowValue(ctypes.Structure):
    _fields_ = (("seen", c_uint64), ("fin", c_uint64))


class CalmFlowValue(ctypes.Structure):
    _fields_ = (("hash", c_uint64), ("hop", c_uint64), ("until", c_uint64 * 2))


class ShuntKey(ctypes.Structure):
    """Addresses and ports in network byte order."""

    _fields_ = (
        ("lan", c_uint8 * 16),
        ("wan", c_uint8 * 16),
        ("lan_port", c_uint8 * 2),
        ("wan_port", c_uint8 * 2),
        ("vlan", c_uint16),
        ("protocol", c_uint8),
        ("place", c_uint8),
    )


class ShuntValue(ctypes.Structure):
    _fields_ = (
        ("since", c_uint64),
        ("until", c_uint64),
        ("seen", c_uint64),
        ("idle", c_uint64),
        ("directions", c_uint32),
        ("fin", c_uint32),
    )


class ShuntHitValue(ctypes.Structure):
    _fields_ = (
        ("key", ShuntKey),
        ("until", c_uint64),
        ("since", c_uint64),
        ("epoch", c_uint32),
        ("hop", c_uint16),
        ("directions", c_uint16),
    )


class ShuntEpochValue(ctypes.Structure):
    _fields_ = (("datapath", c_uint64), ("user_space", c_uint64))


class TickValue(ctypes.Structure):
    _fields_ = (("now", c_uint64), ("check", c_uint64))


class ShuntLimitValue(ctypes.Structure):
    _fields_ = (
        ("time", c_uint64),
        ("idle", c_uint64),
        ("cost", c_uint64),
        ("used", c_uint64),
        ("entered", c_uint64),
        ("unfit", c_uint64),
        ("too_frequent", c_uint64),
        ("full", c_uint64),
    )


class FragmentKey(ctypes.Structure):
    _fields_ = (
        ("source", c_uint64 * 2),
        ("destination", c_uint64 * 2),
        ("id", c_uint32),
        ("protocol", c_uint32),
    )


class FragmentValue(ctypes.Structure):
    _fields_ = (
        ("hash", c_uint64),
        ("seen", c_uint64),
        ("first", c_uint32),
        ("rule", c_uint32),
        ("generation", c_uint32),
        ("protocol", c_uint32),
        ("ends", c_uint64 * 2),
    )


class RecordValue(ctypes.Structure):
    _fields_ = (
        ("number", c_uint64),
        ("at", c_uint64),
        ("length", c_uint32),
        ("captured", c_uint16),
        ("slot", c_uint16),
        ("tag", c_uint16),
        ("tag_proto", c_uint16),
        ("pad", c_uint32),
        ("data", c_uint8 * RECORD_BYTES),
    )


class CachedValue(ctypes.Structure):
    _fields_ = (
        ("source", c_uint64 * 2),
        ("destination", c_uint64 * 2),
        ("ports", c_uint32),
        ("tag", c_uint32),
        ("generation", c_uint32),
        ("rule", c_uint32),
        ("pad", c_uint64 * 2),
    )


class CacheCounterValue(ctypes.Structure):
    _fields_ = (("hits", c_uint64), ("misses", c_uint64))


class StepValue(ctypes.Structure):
    _fields_ = (
        ("position", c_uint8),
        ("group", c_uint8),
        ("hop", c_uint8),
        ("reason", c_uint8),
        ("bucket", c_uint16),
        ("pad", c_uint16),
    )


class TraceValue(ctypes.Structure):
    _fields_ = (
        ("rule", c_uint32),
        ("verdict", c_uint32),
        ("slot", c_uint32),
        ("outcome", c_uint32),
        ("steps", c_uint32),
        ("pad", c_uint32),
        ("hash", c_uint64),
        ("step", StepValue * MAX_TRACE),
    )


class IpDeviceValue(ctypes.Structure):
    _fields_ = (("to", c_uint32), ("hop", c_uint16), ("side", c_uint8), ("pad", c_uint8), ("dropped", c_uint64))


class ClampValue(ctypes.Structure):
    _fields_ = (("mtu", c_uint32), ("pad", c_uint32), ("clamped", c_uint64))


class EncapKind(IntEnum):
    NONE = 0
    GRE = 1
    VXLAN = 2
    GENEVE = 3


class Encapsulated(IntEnum):
    """What became of a frame that XDP may encapsulate; all but SENT and LOST went by the kernel's tunnel."""

    SENT = 0
    OFF = 1
    LONG = 2
    INNER = 3
    NEIGHBOUR = 4
    ROUTE = 5
    ROOM = 6
    CONFIRM = 7
    LOST = 8


class EncapValue(ctypes.Structure):
    _fields_ = (
        ("source", c_uint8 * 16),
        ("destination", c_uint8 * 16),
        ("key", c_uint32),
        ("route", c_uint32),
        ("place", c_uint32),
        ("overhead", c_uint32),
        ("port", c_uint16),
        ("least_port", c_uint16),
        ("ports", c_uint16),
        ("kind", c_uint8),
        ("six", c_uint8),
        ("version", c_uint64),
        ("confirmed", c_uint64),
    )


class EncapStateValue(ctypes.Structure):
    _fields_ = (
        ("tick", c_uint64),
        ("version", c_uint64),
        ("stations", c_uint8 * 12),
        ("mtu", c_uint32),
        ("frames", c_uint64 * ENCAP_PLACES),
    )


class HeaderKey(ctypes.Structure):
    _fields_ = (
        ("source", c_uint64 * 2),
        ("destination", c_uint64 * 2),
        ("ports", c_uint16 * 2),
        ("hop", c_uint16),
        ("protocol", c_uint8),
        ("side", c_uint8),
    )


class HeaderValue(ctypes.Structure):
    _fields_ = (("destination", c_uint8 * 6), ("source", c_uint8 * 6))


class ScratchValue(ctypes.Structure):
    """The beginning of the struct, as far as generated programs use it."""

    _fields_ = (("rule", c_uint32), ("generation", c_uint32), ("accept", c_uint64), ("rest", c_uint64 * 27))


# Map name -> (key, value). Per-CPU maps hold one value per CPU.
MAPS: dict[str, tuple[type[ctypes.Structure] | type[c_uint32], type[ctypes.Structure] | type[c_uint32 | c_uint64]]] = {
    "meta": (c_uint32, MetaValue),
    "control": (c_uint32, ControlValue),
    "own_ways": (c_uint32, OwnWaysValue),
    "fence": (c_uint32, c_uint32),
    "fence_post": (c_uint32, c_uint64),
    "devices": (c_uint32, DeviceValue),
    "tx": (c_uint32, c_uint32),
    "targets": (c_uint32, TargetValue),
    "leases": (c_uint32, LeaseValue),
    "gates": (c_uint32, GateValue),
    "shunt_limits": (c_uint32, ShuntLimitValue),
    "shunts": (c_uint32, c_uint32),
    "shunt_hits": (c_uint32, ShuntHitValue),
    "shunt_epoch": (c_uint32, ShuntEpochValue),
    "ticks": (c_uint32, TickValue),
    "resets": (c_uint32, c_uint64),
    "threads": (c_uint32, c_uint32),
    "segments": (c_uint32, SegmentValue),
    "rules": (c_uint32, RuleValue),
    "hops": (c_uint32, HopValue),
    "groups": (c_uint32, GroupValue),
    "buckets": (c_uint32, c_uint64),
    "continuations": (c_uint32, ContinuationValue),
    "xdp_programs": (c_uint32, c_uint32),
    "tc_programs": (c_uint32, c_uint32),
    "device_counters": (c_uint32, DeviceCounterValue),
    "loss_counters": (c_uint32, LossCounterValue),
    "kernel_fields": (c_uint32, KernelFieldsValue),
    "rule_counters": (c_uint32, RuleCounterValue),
    "hop_counters": (c_uint32, HopCounterValue),
    "copy_points": (c_uint32, CopyPointValue),
    "copy_wishes": (c_uint32, CopyWishValue),
    "copy_rings": (c_uint32, c_uint32),
    "copy_counters": (c_uint32, CopyCounterValue),
    "flows": (FlowKey, FlowValue),
    "new_flows": (FlowKey, FlowValue),
    "calm_flows": (c_uint32, CalmFlowValue),
    "fragments": (FragmentKey, FragmentValue),
    "recorders": (c_uint32, c_uint32),
    "cache": (c_uint32, CachedValue),
    "cache_counters": (c_uint32, CacheCounterValue),
    "ip_devices": (c_uint32, IpDeviceValue),
    "clamps": (c_uint32, ClampValue),
    "encaps": (c_uint32, EncapValue),
    "encap_states": (c_uint32, EncapStateValue),
    "encap_tx": (c_uint32, c_uint32),
    "headers": (HeaderKey, HeaderValue),
    "trace": (c_uint32, TraceValue),
    "scratch": (c_uint32, ScratchValue),
}
