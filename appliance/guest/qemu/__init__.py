# SPDX-License-Identifier: GPL-2.0-only
"""QEMU as a child program: its arguments, its resources, its monitor."""
