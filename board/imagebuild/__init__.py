# SPDX-License-Identifier: GPL-2.0-only
"""Builds a board's image: kernel, root filesystem, appliance layer, demo guest, data disk.

What differs by board and processor comes from `boardspec.py`. Every artefact is kept in a cache keyed by the content
of its inputs (`cache.py`), and linked into `build/BOARD/`. `artefacts.build()` builds everything, and so does
`python -m imagebuild` from a command line.
"""
