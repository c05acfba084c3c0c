# SPDX-License-Identifier: GPL-2.0-only
"""Bypass drills: what proves that the link survives, how old that proof is, and when it is due again."""
