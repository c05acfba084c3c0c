#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Buildroot runs this on the finished target folder, before the images are made: post-build.sh TARGET_DIR.
# rootfs/ decides what starts; start scripts that packages bring for another init are removed here.
set -eu

target=$1
rootfs=$(cd "$(dirname "$0")/../rootfs" && pwd)

# Buildroot copies the whole overlay, including its README.
rm -f "$target/README.md"

# busybox's own inittab must not replace the overlay's.
cmp -s "$rootfs/etc/inittab" "$target/etc/inittab" || {
	echo "post-build: $target/etc/inittab is not rootfs/etc/inittab; is BR2_ROOTFS_OVERLAY set?" >&2
	exit 1
}

# Start scripts of packages: only what rootfs/ brings is started.
for script in "$target"/etc/init.d/*; do
	[ -e "$script" ] || continue
	[ -e "$rootfs/etc/init.d/${script##*/}" ] || rm -f "$script"
done

# Drivers are built in. What a board's fragment has as a module hangs the kernel on purpose, for tests.
rm -rf "$target/lib/modules"

# Mount point of the data partition; git keeps no empty folder in rootfs/.
mkdir -p "$target/var/lib/bypass"

# QEMU installs the firmware of every machine that it knows; guests are x86 machines with virtio devices.
[ ! -d "$target/usr/share/qemu" ] || find "$target/usr/share/qemu" -mindepth 1 -maxdepth 1 \
	! -name 'bios*.bin' ! -name 'vgabios*.bin' ! -name 'linuxboot*.bin' ! -name 'multiboot*.bin' ! -name 'pvh.bin' \
	! -name 'kvmvapic.bin' ! -name 'efi-virtio.rom' ! -name 'efi-e1000*.rom' ! -name keymaps -exec rm -rf {} +
