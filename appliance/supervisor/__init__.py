# SPDX-License-Identifier: GPL-2.0-only
"""bypassd's top: the parts, the configuration applied to them, and what is shown of the whole."""
