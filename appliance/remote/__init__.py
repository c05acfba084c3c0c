# SPDX-License-Identifier: GPL-2.0-only
"""Remotes: hops that are computer systems elsewhere, reached through tunnels."""
