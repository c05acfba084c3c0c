# SPDX-License-Identifier: GPL-2.0-only
"""Making a configuration the running one: the store, the steps, the confirmation."""
