# SPDX-License-Identifier: GPL-2.0-only
"""Puts a disk image together from a kernel, an initramfs and a squashfs: `python -m imagebuild.disk`.

The layout and the boot loader's configuration are board/disk/. The tools are those of Debian or of Buildroot's host
folder: genimage, grub-mkimage, mke2fs, mkfs.fat, mtools. The same inputs give the same bytes. Buildroot's post-image.sh
runs this with the build machine's Python: standard library alone.
"""
