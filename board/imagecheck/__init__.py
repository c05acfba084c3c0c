# SPDX-License-Identifier: GPL-2.0-only
"""Does an image hold what the code uses? `uses` derives the one from the sources; the other is a Buildroot
configuration (`buildroot`), a root file system (`tree`), a kernel's configuration, and a QEMU that is started with the
words that guests are started with (`guest_qemu`).

Runs inside Buildroot's hooks too: the standard library and the appliance's pure modules only.
"""
