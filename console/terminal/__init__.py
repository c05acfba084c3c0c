# SPDX-License-Identifier: GPL-2.0-only
"""Terminal support for a session: size, capabilities, pages, questions, Ctrl-C, slow lines. Knows no command."""
