# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What check.sh and image.sh share; `me` is the name that messages begin with.
me=${me:-image}
release=2026.02
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034  # used by who reads this
python=$here/../build/venv/bin/python
[ -x "$python" ] || python=python3

say() { echo "$me: $*"; }
give_up() {
	echo "$me: $*" >&2
	exit 1
}

# A make of ours must not see the flags and variables of the make that called us.
buildroot() { env -u MAKEFLAGS -u MFLAGS -u MAKEOVERRIDES -u MAKELEVEL make "$@"; }

# find_buildroot DIR: sets top and version, or gives up: DIR must be a Buildroot tree of the line that this tree is for.
find_buildroot() {
	[ -d "$1" ] || give_up "$1: no such folder; give a Buildroot $release.x tree"
	top=$(cd "$1" && pwd)
	version=$(sed -n 's/^export BR2_VERSION := //p' "$top/Makefile" 2>/dev/null || true)
	[ -n "$version" ] || give_up "$top is not a Buildroot tree; give a Buildroot $release.x tree"
	case $version in
	"$release" | "$release".*) ;;
	*) give_up "$top is Buildroot $version; this tree is made for $release.x" ;;
	esac
}

# configure BOARD OUT: load the board's defconfig into the output folder OUT.
configure() {
	mkdir -p "$2"
	"$here/defconfig.sh" "$1" >"$2/throughwire_defconfig"
	buildroot -s -C "$top" O="$2" BR2_EXTERNAL="$here" BR2_DEFCONFIG="$2/throughwire_defconfig" defconfig
}
