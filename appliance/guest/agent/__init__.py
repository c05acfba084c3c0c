# SPDX-License-Identifier: GPL-2.0-only
"""The conversation with the agent inside a guest."""
