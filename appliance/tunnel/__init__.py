# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's tunnel devices, and the way by which their outer packets go."""
