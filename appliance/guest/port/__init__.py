# SPDX-License-Identifier: GPL-2.0-only
"""A guest's network ports: data taps and the management port."""
