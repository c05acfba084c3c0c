# SPDX-License-Identifier: GPL-2.0-only
"""Decode frames with scapy, in a separate process: frames are untrusted, and scapy takes seconds to import.

`python -m console.commands.decode` reads frames (4 bytes of length, little-endian, then the frame) and answers each
with one line of JSON {"text": one line, "layers": all fields}. It drops all privileges before the first frame: no root,
no files, no child processes, bounded memory. Lives as long as its standard input.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys

MEMORY = 1 << 30  # bytes of address space
NOBODY = 65534


def _renounce() -> None:
    """Drop everything that a process that parses untrusted frames does not need."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 3),
    ):
        resource.setrlimit(limit, (value, value))


def main() -> int:
    """Decode frames until the end of input."""
    import logging

    logging.getLogger("scapy").setLevel(logging.CRITICAL)
    # only common protocols of such a link: each layer costs start-up time
    import scapy.layers.dhcp
    import scapy.layers.dns
    import scapy.layers.inet6
    import scapy.layers.ntp
    import scapy.layers.sctp
    import scapy.layers.vxlan  # noqa: F401
    from scapy.layers.l2 import Ether

    _renounce()
    source, answers = sys.stdin.buffer, sys.stdout
    while len(head := source.read(4)) == 4:
        frame = source.read(struct.unpack("<I", head)[0])
        try:
            packet = Ether(frame)
            text, layers = packet.summary(), packet.show(dump=True)
        except Exception as error:  # an error in a dissector must not prevent decoding the next frame
            text, layers = f"cannot be decoded ({type(error).__name__}): {frame[:64].hex(' ')}", ""
        answers.write(json.dumps({"text": text, "layers": layers}) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
