# SPDX-License-Identifier: GPL-2.0-only
"""What a configuration can contain: types, the meaning and unit of each key, limits, secrets."""
