# SPDX-License-Identifier: GPL-2.0-only
"""What the appliance reports: the ledger of transitions, events, syslog and metrics."""
