# SPDX-License-Identifier: GPL-2.0-only
"""Limits of a configuration. The datapath's tables have these sizes (`bpf/steer.h`).

Errors name the constant, so that it can be found here.
"""

from appliance.ranges import SUPERVISOR_GRACE_MS, WATCHDOG_TIMEOUT_MS

MAX_SEGMENTS = 16
MAX_HOPS = 127  # guests and remotes together; hop id 0 means "out"
MAX_GROUPS = 64
MAX_RULES = 4096
MAX_PATH = 8  # hops in the path of one rule
MAX_MEMBERS = 8  # hops in one group
MAX_MIRRORS = 4  # of one rule
MAX_USERS = 100
MAX_KEYS = 32  # public keys of one user
MAX_SYSLOG = 4  # servers
MAX_SNMP_USERS = 16
MAX_SNMP_RECEIVERS = 8
MAX_AAA_SERVERS = 8  # of a kind
MIN_AAA, MAX_AAA = 10**9, 30 * 10**9  # ns; the SSH server's process waits longer (appliance/login-hook)
MAX_SECRET = 128  # bytes
MAX_DNS = 3  # servers; the C library asks no more
MAX_NTP = 8  # servers
MAX_ALLOW = 64  # networks that may reach the management port's services
MAX_FILE = 1 << 20  # bytes of a configuration file

MIN_MTU, MAX_MTU = 1500, 16000  # bytes without the Ethernet header; less than Ethernet's own is no wire
ONE_BUFFER_MTU = (
    3480  # of longer packets a frame is in several buffers by XDP: a page without what drivers reserve in it
)
MAX_DURATION = 24 * 3600 * 10**9  # ns; longer waits are never meant, and times stay far from 64 bits
MIN_LINK_LOSS = 10**9  # ns; renegotiation alone takes a link down for longer than a smaller value
MIN_INTERVAL = 10**6  # ns between heartbeats or probes
MIN_CONNECT_INTERVAL = 10**7  # ns; a connection each, and the guest must clear them away
MAX_PROBES = 16  # of one guest
MAX_SHUNT = 24 * 3600 * 10**9  # ns
MAX_QUARANTINE = 30 * 24 * 3600 * 10**9  # ns
MIN_WATCHDOG, MAX_WATCHDOG = (ms * 10**6 for ms in WATCHDOG_TIMEOUT_MS)  # ns
MIN_GRACE, MAX_GRACE = (ms * 10**6 for ms in SUPERVISOR_GRACE_MS)  # ns
MIN_CRASH_WINDOW = 60 * 10**9  # ns; less than a boot forgets what it is to remember
MIN_RESTART_WAIT, MAX_RESTART_WAIT = 10**7, 3600 * 10**9  # ns between an end of a guest and its next start
MIN_MEMORY = 16 << 20  # bytes; less boots no kernel
MAX_MEMORY = 1 << 40  # bytes
MIN_OVERHEAD = 64 << 20  # bytes; QEMU alone takes that, and the kernel would end the guest at its start
MAX_QUEUES = 16  # of one port of a guest; heartbeats carry the queue in four bits
MAX_QUEUE_POLL = 10**6  # ns; longer than the processor takes to wake up, it only burns time
MAX_DISKS = 8  # of one guest, beside its image
