#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Buildroot runs this on the finished target folder, before the images are made: post-build.sh TARGET_DIR, with BR2_CONFIG,
# BUILD_DIR and BINARIES_DIR in the environment. rootfs/ decides what starts; start scripts that packages bring for
# another init are removed here. Then what is there is held against what the code uses (board/imagecheck/).
set -eu

target=$1
here=$(cd "$(dirname "$0")" && pwd)
repo=$(dirname "$here")
rootfs=$repo/rootfs
python=${THROUGHWIRE_PYTHON:-$repo/build/venv/bin/python}
[ -x "$python" ] || python=python3

set_in_config() { grep -qx "$1=y" "${BR2_CONFIG:-/dev/null}"; }
tool() { env PYTHONPATH="$repo/board:$repo" "$python" -m "$@"; }

# Buildroot copies the whole overlay, including its README.
rm -f "$target/README.md"

# busybox's own inittab must not replace the overlay's.
cmp -s "$rootfs/etc/inittab" "$target/etc/inittab" || {
	echo "post-build: $target/etc/inittab is not rootfs/etc/inittab; is BR2_ROOTFS_OVERLAY set?" >&2
	exit 1
}

# Buildroot never removes from the target folder what an earlier configuration has put there.
board=$(sed -n 's/^BR2_PACKAGE_THROUGHWIRE_BOARD="\(.*\)"$/\1/p' "${BR2_CONFIG:-/dev/null}")
[ -z "$board" ] || cmp -s "$repo/board/$board/board.toml" "$target/usr/share/bypass/board.toml" || {
	echo "post-build: $target was built for another board or an earlier state of this one, not for $board:" \
		"\`make clean\`, or build into another output folder" >&2
	exit 1
}

# Start scripts of packages: only what rootfs/ brings is started.
for script in "$target"/etc/init.d/*; do
	[ -e "$script" ] || continue
	[ -e "$rootfs/etc/init.d/${script##*/}" ] || rm -f "$script"
done

# A root shell by kernel command line is for images that stay on the desk.
set_in_config BR2_PACKAGE_THROUGHWIRE_DEBUG_SHELL || {
	rm -f "$target/usr/libexec/bypass/debug-shell"
	sed -i '/debug-shell/d' "$target/etc/inittab"
}

# Drivers are built in. What a board's fragment has as a module hangs the kernel on purpose, for tests.
rm -rf "$target/lib/modules"

# What `show licences` lists; image.sh has asked Buildroot for it.
[ -z "${THROUGHWIRE_INFO:-}" ] || tool imagebuild.licences --info "$THROUGHWIRE_INFO" >"$target/usr/share/bypass/licences.json"

# The file that OpenSSL reads by itself, and Python lists; the package has the authorities' certificates elsewhere.
[ ! -f "$target/etc/ssl/certs/ca-certificates.crt" ] || ln -sf certs/ca-certificates.crt "$target/etc/ssl/cert.pem"

# Mount point of the data partition; git keeps no empty folder in rootfs/.
mkdir -p "$target/var/lib/bypass"

# QEMU installs the firmware of every machine that it knows; guests are x86 machines with virtio devices, by BIOS or UEFI,
# and their ports have no option ROMs.
[ ! -d "$target/usr/share/qemu" ] || find "$target/usr/share/qemu" -mindepth 1 -maxdepth 1 \
	! -name 'bios*.bin' ! -name 'vgabios*.bin' ! -name 'linuxboot*.bin' ! -name 'multiboot*.bin' ! -name 'pvh.bin' \
	! -name 'kvmvapic.bin' ! -name 'edk2-x86_64-code.fd' ! -name 'edk2-i386-vars.fd' -exec rm -rf {} +
# qemu-img cannot be had alone.
for name in elf2dmp qemu-edid qemu-io qemu-keymap qemu-nbd qemu-pr-helper qemu-storage-daemon qemu-vmsr-helper; do
	rm -f "$target/usr/bin/$name"
done

# What nothing on the appliance runs or reads: parts of Python, of GnuPG all but gpg, GLib's tools and what only they and
# desktops use of its libraries, libraries for debuggers, times with leap seconds
for path in usr/lib/python3.*/ensurepip usr/lib/python3.*/idlelib usr/lib/python3.*/lib2to3 usr/lib/python3.*/pydoc_data \
	usr/lib/python3.*/turtledemo usr/lib/python3.*/site-packages/scapy/contrib usr/lib/python3.*/site-packages/docs \
	usr/lib/python3.*/site-packages/example usr/lib/python3.*/site-packages/pyrad/tests usr/share/icons usr/share/zoneinfo/right \
	share usr/bin/scapy \
	usr/bin/dirmngr* usr/bin/gpg-* usr/bin/gpgscm usr/bin/gpgsm usr/bin/gpgtar usr/libexec/gpg-* usr/libexec/scdaemon \
	usr/bin/gi-* usr/bin/gio* usr/bin/gdbus* usr/bin/glib-* usr/bin/gresource usr/bin/gsettings usr/bin/gtester* \
	usr/lib/libgio-2.0.* usr/lib/libgirepository-2.0.* usr/lib/libgobject-2.0.* usr/lib/libgthread-2.0.* \
	usr/lib/libasm* usr/lib/libdw* usr/lib/libevent_* usr/lib/libmpdec++* usr/lib/libnetsnmphelpers* usr/lib/libpsx* \
	usr/lib/libss.*; do
	# shellcheck disable=SC2086,SC2115  # patterns, and none is empty
	rm -rf "$target"/$path
done

# Of scapy only what frames of a wired link need, which console/commands/decode.py imports: not its tools, other systems,
# radio and car buses, and the protocols of Windows domains and TLS, of which a frame shows nothing
for path in tools modules arch/windows arch/bpf libs/rfc3961 libs/bluetoothids libs/winpcapy layers/tls layers/x509 \
	layers/msrpce layers/dcerpc layers/smb layers/smb2 layers/smbclient layers/smbserver layers/kerberos layers/ldap \
	layers/ntlm layers/spnego layers/gssapi layers/ms_nrtp layers/tpm layers/dot11 layers/dot15d4 layers/bluetooth \
	layers/bluetooth4LE layers/zigbee layers/sixlowpan layers/can; do
	# shellcheck disable=SC2086,SC2115  # patterns, and none is empty
	rm -rf "$target"/usr/lib/python3.*/site-packages/scapy/$path \
		"$target"/usr/lib/python3.*/site-packages/scapy/$path.py*
done

# The demo guest: the image's own kernel and busybox, and the forwarder that the package has built.
demo=$target/usr/share/bypass/guest-demo
rm -rf "$demo"
if set_in_config BR2_PACKAGE_THROUGHWIRE_DEMO_GUEST; then
	mkdir -p "$demo"
	install -m 0644 "$BINARIES_DIR/bzImage" "$demo/bzImage"
	tool imagebuild.target_initramfs --target "$target" --init "$repo/board/guest-demo/init" \
		--add "bin/forwarder=$BINARIES_DIR/guest-demo/forwarder" "$demo/initrd.gz"
fi

# Without Buildroot (in tests of this script) there is nothing more to look at.
[ -n "${BR2_CONFIG:-}" ] || exit 0
# For mksquashfs (external.mk), by the Python whose byte code the image has
env PYTHONPATH="$repo/board" "$HOST_DIR/bin/python3" -m imagebuild.start_order --target "$target" \
	"$BUILD_DIR/throughwire-start-order"
tool imagecheck tree "$target"
tool imagecheck libraries "$target"
for config in "$BUILD_DIR"/linux-[0-9]*/.config; do
	[ ! -e "$config" ] || tool imagecheck kernel "$board" --config "$config"
done
# The target's QEMU runs here where the processor is the same.
loader=$target/lib64/ld-linux-x86-64.so.2
if [ "$(uname -m)" = x86_64 ] && [ -e "$loader" ]; then
	tool imagecheck qemu "$loader" --library-path "$target/lib64:$target/lib:$target/usr/lib" \
		"$target/usr/bin/qemu-system-x86_64" -L "$target/usr/share/qemu"
else
	echo "post-build: SKIPPED: the target's QEMU does not run on this machine; guests' words were not tried" >&2
fi
