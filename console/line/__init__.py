# SPDX-License-Identifier: GPL-2.0-only
"""From a typed line to a command: the table of commands, parsing, completion, pipes."""
