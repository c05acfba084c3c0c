# SPDX-License-Identifier: GPL-2.0-only
"""Guest images: import, inspection, and the store."""
