# SPDX-License-Identifier: GPL-2.0-only
"""What a session needs of a terminal: size, capabilities, pages, questions, Ctrl-C, slow lines. Knows no command."""
