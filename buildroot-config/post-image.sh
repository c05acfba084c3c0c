#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Buildroot runs this when the images are made: post-image.sh BINARIES_DIR, with BUILD_DIR, TARGET_DIR, HOST_DIR and
# BR2_CONFIG in the environment. Makes the initramfs and the image of the whole disk, then the checksums.
set -eu

binaries=$1
repo=$(cd "$(dirname "$0")/.." && pwd)
python=${THROUGHWIRE_PYTHON:-$repo/build/venv/bin/python}
[ -x "$python" ] || python=python3
tool() { env PYTHONPATH="$repo/board:$repo" "$python" -m "$@"; }

# The QEMU board can boot the uncompressed kernel (PVH): no decompression, which costs seconds where QEMU emulates.
for vmlinux in "$BUILD_DIR"/linux-[0-9]*/vmlinux; do
	[ ! -e "$vmlinux" ] || install -m 0644 "$vmlinux" "$binaries/vmlinux"
done

if [ -e "$binaries/rootfs.squashfs" ] && [ -n "${BR2_CONFIG:-}" ]; then
	board=$(sed -n 's/^BR2_PACKAGE_THROUGHWIRE_BOARD="\(.*\)"$/\1/p' "$BR2_CONFIG")
	debug=""
	! grep -qx BR2_PACKAGE_THROUGHWIRE_DEBUG_SHELL=y "$BR2_CONFIG" || debug=--debug
	tool imagebuild.target_initramfs --target "$TARGET_DIR" --init "$repo/board/initramfs/init" \
		--add "bin/slot-state=$repo/rootfs/usr/libexec/bypass/slot-state" ${debug:+"$debug"} "$binaries/initrd.gz"
	modules=$(find "$BUILD_DIR" -maxdepth 1 -type d -name 'grub2-*')
	tool imagebuild.disk --release --kernel "$binaries/bzImage" --initrd "$binaries/initrd.gz" \
		--root "$binaries/rootfs.squashfs" --command-line "$(tool boardspec "$board" ${debug:+"$debug"})" \
		--grub "${modules:-/usr/lib/grub}" --path "$HOST_DIR/bin:$HOST_DIR/sbin:/usr/sbin:/usr/bin:/sbin:/bin" \
		"$binaries/disk.img"
fi

cd "$binaries"
rm -f SHA256SUMS
sums=$(find . -type f -printf '%P\n' | sort | xargs -r -d '\n' sha256sum)
printf '%s\n' "$sums" >SHA256SUMS
