#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Buildroot runs this when the images are made: post-image.sh BINARIES_DIR, with BUILD_DIR in the environment.
set -eu

binaries=$1

# The QEMU board boots the uncompressed kernel (PVH): no decompression, which costs seconds where QEMU emulates.
for vmlinux in "$BUILD_DIR"/linux-[0-9]*/vmlinux; do
	[ ! -e "$vmlinux" ] || install -m 0644 "$vmlinux" "$binaries/vmlinux"
done

cd "$binaries"
rm -f SHA256SUMS
sums=$(find . -type f -printf '%P\n' | sort | xargs -r -d '\n' sha256sum)
printf '%s\n' "$sums" >SHA256SUMS
