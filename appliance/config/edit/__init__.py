# SPDX-License-Identifier: GPL-2.0-only
"""The candidate: who holds it, how it is changed, what can be typed next."""
