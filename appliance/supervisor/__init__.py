# SPDX-License-Identifier: GPL-2.0-only
"""bypassd's top level: the parts, the configuration applied to them, and the status of the whole."""
