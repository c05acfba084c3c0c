# SPDX-License-Identifier: GPL-2.0-only
"""A segment: a LAN/WAN port pair with its relay, and the decision between inline and bypass."""
