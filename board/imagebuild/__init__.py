# SPDX-License-Identifier: GPL-2.0-only
"""Builds the QEMU reference board's image: kernel, root filesystem, appliance layer, demo guest, data disk.

Standard library only. Every artefact is kept in a cache keyed by the content of its inputs (`cache.py`), and linked
into `build/qemu-x86_64/`. `artefacts.build()` is the way in; `python -m imagebuild` is the same from a command line.
"""
