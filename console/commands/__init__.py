# SPDX-License-Identifier: GPL-2.0-only
"""One module a command, or a family of them, that runs in the console's own process."""
