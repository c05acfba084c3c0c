# SPDX-License-Identifier: GPL-2.0-only
"""Making a configuration the running one: store, steps, confirmation."""
