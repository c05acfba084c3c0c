# SPDX-License-Identifier: GPL-2.0-only
"""The datapath's objects in the kernel: programs, maps, links, and their layout."""
