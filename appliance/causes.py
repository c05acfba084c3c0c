# SPDX-License-Identifier: GPL-2.0-only
"""Why something is bypassed, stopped or failed: every such state names one of these causes.

The value is what the console and the ledger of transitions show; its description is for the operator.
"""

from enum import StrEnum


class Cause(StrEnum):
    """Named causes. A cause is never reused for a second meaning."""

    NONE = "none"
    STARTING = "starting"
    OPERATOR = "operator"
    CONFIGURED = "configured"
    CONFIG_INVALID = "config_invalid"
    PORT_MISSING = "port_missing"
    PORT_SET_DOWN = "port_set_down"
    LINKS_UNREADABLE = "links_unreadable"
    LINK_DOWN = "link_down"
    LINKS_DOWN = "links_down"
    HOPS_MISSING = "hops_missing"
    NOT_SENT = "not_sent"
    PARTLY_SENT = "partly_sent"
    RELAY_MISSING = "relay_missing"
    RELAY_FAULT = "relay_fault"
    RELAY_BUS_ERROR = "relay_bus_error"
    RELAY_NO_ANSWER = "relay_no_answer"
    RELAY_UNSUPPORTED = "relay_unsupported"
    WATCHDOG_MISSING = "watchdog_missing"
    DATAPATH_FAULT = "datapath_fault"
    PROGRAM_DETACHED = "program_detached"
    FOREIGN_PROGRAM = "foreign_program"
    DRILL = "drill"
    MAINTENANCE = "maintenance"
    BOARD_TEST = "board_test"
    REARMING = "rearming"
    CRASH_HOLD = "crash_hold"
    SAFE_MODE = "safe_mode"
    SUPERVISOR_LOST = "supervisor_lost"
    SUPERVISOR_RESTARTED = "supervisor_restarted"
    STOPPING = "stopping"
    GUEST_EXITED = "guest_exited"
    GUEST_FAILED = "guest_failed"
    WAITING = "waiting"
    IMAGE_UNREADABLE = "image_unreadable"
    NO_KVM = "no_kvm"
    MEMORY_SHORT = "memory_short"
    TAP_IN_USE = "tap_in_use"
    QEMU_REFUSED = "qemu_refused"
    CRASH_LOOP = "crash_loop"
    GUEST_RESET = "guest_reset"
    PROVING = "proving"
    NOT_PROVED = "not_proved"
    HEARTBEAT_LOST = "heartbeat_lost"
    PROBE_FAILED = "probe_failed"
    NOT_BLOCKING = "not_blocking"
    TOO_SLOW = "too_slow"
    OVERLOADED = "overloaded"
    CPU_STALLED = "cpu_stalled"
    GUEST_PANICKED = "guest_panicked"
    GUEST_WATCHDOG = "guest_watchdog"
    GUEST_PAUSED = "guest_paused"
    GUEST_DISK = "guest_disk"
    GUEST_DISK_FULL = "guest_disk_full"
    GUEST_ASKED = "guest_asked"
    TUNNEL_FAILED = "tunnel_failed"
    TUNNEL_DOWN = "tunnel_down"
    NOTHING_RETURNED = "nothing_returned"
    LOOP = "loop"
    FLOW_BLAMED = "flow_blamed"
    DRAINING = "draining"
    HEALTHY = "healthy"
    LOGIN = "login"
    LOGIN_FAILED = "login_failed"
    LOGIN_BLOCKED = "login_blocked"
    ACCESS_FAULT = "access_fault"
    AAA_FAULT = "aaa_fault"
    SNMP_FAULT = "snmp_fault"
    HOST_KEY_DAMAGED = "host_key_damaged"


DESCRIPTION: dict[Cause, str] = {
    Cause.NONE: "no reason to bypass is known",
    Cause.STARTING: "the appliance is starting and has not been verified yet",
    Cause.OPERATOR: "requested by an operator",
    Cause.CONFIGURED: "requested by the configuration",
    Cause.CONFIG_INVALID: "the configuration is not valid: run `bypass check` on the file",
    Cause.PORT_MISSING: "a port of the segment does not exist: compare board.toml with the hardware",
    Cause.PORT_SET_DOWN: "another program sets a port of the segment down: find out which and stop it",
    Cause.LINKS_UNREADABLE: "the kernel does not report its network devices: a driver hangs, see the kernel log",
    Cause.LINK_DOWN: "a port of the segment has no link: check cable and neighbour",
    Cause.LINKS_DOWN: "no port of the segment has a link: check cables and neighbours, then the appliance's own ports",
    Cause.HOPS_MISSING: "a rule with link-down lacks hops: the segment's ports are held down until they are available",
    Cause.NOT_SENT: "a port sends none of its frames: look for messages of its driver in the kernel log",
    Cause.PARTLY_SENT: "a port sends only part of its frames: it is overloaded, or one of its queues hangs",
    Cause.RELAY_MISSING: "the relay line cannot be opened: check board.toml and the GPIO driver",
    Cause.RELAY_FAULT: "the relay does not read back as it was set: check coil, contacts and their wiring",
    Cause.RELAY_BUS_ERROR: "the relay's bus or controller reports an error: check its wiring and the kernel log",
    Cause.RELAY_NO_ANSWER: "the relay's bus or controller does not answer in time: see the kernel log",
    Cause.RELAY_UNSUPPORTED: "this firmware cannot drive the board's kind of relay: correct board.toml or update it",
    Cause.WATCHDOG_MISSING: "the hardware watchdog cannot be opened: a hang would not be noticed",
    Cause.DATAPATH_FAULT: "the kernel refused the datapath",
    Cause.PROGRAM_DETACHED: "another program detaches the datapath from a port: find out which and stop it",
    Cause.FOREIGN_PROGRAM: "another BPF program has a port's frames before the datapath: `bpftool net` shows which",
    Cause.DRILL: "a bypass drill is under way: `drill abort` ends it",
    Cause.MAINTENANCE: "in maintenance for a time: `segment NAME auto` ends it",
    Cause.BOARD_TEST: "a test of the board moves its relays",
    Cause.REARMING: "healthy again, waiting for the re-arm delay",
    Cause.CRASH_HOLD: "the machine crashed several times: it stays in bypass for a while after the start",
    Cause.SAFE_MODE: "the machine crashed too often: `crash-count clear` ends safe mode",
    Cause.SUPERVISOR_LOST: "the supervisor did not come back within the grace time",
    Cause.SUPERVISOR_RESTARTED: "the supervisor exited unexpectedly, and the keeper restarted it",
    Cause.STOPPING: "an orderly stop or reboot",
    Cause.GUEST_EXITED: "the guest's process ended",
    Cause.GUEST_FAILED: "the guest cannot be started",
    Cause.WAITING: "the guest starts once another guest is available",
    Cause.IMAGE_UNREADABLE: "the guest's image cannot be read",
    Cause.NO_KVM: "hardware virtualization is not available: load kvm or enable it in the firmware",
    Cause.MEMORY_SHORT: "there is not enough free memory for the guest",
    Cause.TAP_IN_USE: "another process holds a tap of the guest",
    Cause.QEMU_REFUSED: "QEMU exited before the guest ran: its error message says why",
    Cause.CRASH_LOOP: "the guest exited too often in a row: `bypass guest NAME start` tries again",
    Cause.GUEST_RESET: "the guest restarted itself",
    Cause.PROVING: "the guest is running, but it is not verified yet that it forwards frames",
    Cause.NOT_PROVED: "it has been running for minutes and never passed its checks: `show guest NAME` has them",
    Cause.HEARTBEAT_LOST: "heartbeats through the guest's data ports stopped",
    Cause.PROBE_FAILED: "a probe of the guest got no valid answer",
    Cause.NOT_BLOCKING: "frames that the guest's application must block got through: it does not inspect",
    Cause.TOO_SLOW: "the guest forwards, but slower than its limit",
    Cause.OVERLOADED: "more frames than the guest can handle: `on_overload` of the rules decides about the excess",
    Cause.CPU_STALLED: "the guest's vCPUs do not get to run",
    Cause.GUEST_PANICKED: "the guest's kernel panicked",
    Cause.GUEST_WATCHDOG: "the guest's own watchdog expired: its kernel hung",
    Cause.GUEST_PAUSED: "the guest is paused",
    Cause.GUEST_DISK: "the guest's disk cannot be read or written",
    Cause.GUEST_DISK_FULL: "no disk space left for what the guest writes: it continues when files have been removed",
    Cause.GUEST_ASKED: "requested by the guest over its agent channel",
    Cause.TUNNEL_FAILED: "the tunnel to the remote cannot be set up: its detail says why",
    Cause.TUNNEL_DOWN: "the way to the remote is interrupted: check the management port and its network",
    Cause.NOTHING_RETURNED: "the remote's checks pass, but none of the frames sent to it came back",
    Cause.LOOP: "frames that are sent to the remote come in again at this appliance: its detail says where",
    Cause.FLOW_BLAMED: "the flow was present each time the guest crashed",
    Cause.DRAINING: "the guest is being drained of its flows",
    Cause.HEALTHY: "all checks pass",
    Cause.LOGIN: "a user logged in or out",
    Cause.LOGIN_FAILED: "a wrong password, or a user that does not exist",
    Cause.LOGIN_BLOCKED: "too many failed logins from this address: `management unblock ADDRESS` unblocks it",
    Cause.AAA_FAULT: "a RADIUS or TACACS+ server gives no answer that can be trusted: `show aaa` says why",
    Cause.SNMP_FAULT: "nobody can read the appliance by SNMP, and no notifications are sent: `show snmp` says why",
    Cause.ACCESS_FAULT: "the management port or SSH does not work: `show management` says why",
    Cause.HOST_KEY_DAMAGED: "the SSH host key could not be read and was replaced: clients will warn of a changed key",
}
