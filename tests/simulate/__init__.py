# SPDX-License-Identifier: GPL-2.0-only
"""The simulator: the appliance's own decisions under a seeded clock, in a world with injected faults.

Real: the keeper's core and its packets, all of bypassd's supervisor (parts, pulse, segments, links, steering, commit
engine and store), and the part "guests" from its runs to the checks and leases. Modelled: the kernel, ports and cables,
the relay, the watchdog, the disk, and QEMU with what runs in it (kernel.py, hardware.py, disk.py, guests.py).

Everything runs in one thread on one heap of events (clock.py). A run follows from its seed and its list of faults
(faults.py) alone, so it replays exactly, and a shorter list is tried to explain a failure (shrink.py). Quiet time
costs nothing: while every state is at rest, time jumps to the next fault.
"""
