# SPDX-License-Identifier: GPL-2.0-only
"""The control socket: JSON-RPC over a Unix socket, and the answers as types."""
