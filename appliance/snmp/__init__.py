# SPDX-License-Identifier: GPL-2.0-only
"""SNMPv3 to read, and notifications: what is offered, the session with snmpd, and its configuration."""
