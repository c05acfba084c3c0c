# SPDX-License-Identifier: GPL-2.0-only
"""What is told to the outside: transitions, events, syslog, metrics."""
