#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# image.sh [--sbom-only] BOARD BUILDROOT_DIR OUT_DIR: build the firmware with Buildroot, below OUT_DIR/buildroot, and put
# into OUT_DIR what is handed on: disk image, slot files, checksums, bill of materials, licence report. With --sbom-only
# nothing is built or downloaded: the two reports alone.
set -euo pipefail
here="" python="" version="" top="" # lib.sh sets them
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

build=1
[ "${1:-}" != --sbom-only ] || { build="" && shift; }
[ $# = 3 ] || give_up "usage: image.sh [--sbom-only] BOARD BUILDROOT_DIR OUT_DIR"
board=$1
"$here/defconfig.sh" "$board" >/dev/null
find_buildroot "$2"
mkdir -p "$3"
out=$(cd "$3" && pwd)
work=$out/buildroot
[ -n "$build" ] || { work=$(mktemp -d "${TMPDIR:-/tmp}/image.XXXXXX") && trap 'rm -rf "$work"' EXIT; }

say "Buildroot $version in $top, board $board"
configure "$board" "$work" >"$out/configure.log" 2>&1 || give_up "the defconfig cannot be loaded: see $out/configure.log"
buildroot -s -C "$work" show-info >"$work/info.json" 2>"$work/info.log" || give_up "show-info: $(tail -n 3 "$work/info.log")"
export THROUGHWIRE_PYTHON=$python THROUGHWIRE_INFO=$work/info.json

# reports FOLDER [--target DIR]: bill of materials and licence report. Buildroot's tool fetches the list of SPDX licences
# once, into the folder of downloads.
reports() {
	BR2_DL_DIR=${BR2_DL_DIR:-$top/dl} "$top/utils/generate-cyclonedx" -i "$work/info.json" >"$work/cyclonedx.json" ||
		give_up "generate-cyclonedx failed: without a network put spdx-1.6.schema.json into \$BR2_DL_DIR/cyclonedx"
	PYTHONPATH="$here/../board" "$python" -m imagebuild.sbom --board "$board" --info "$work/info.json" \
		--cyclonedx "$work/cyclonedx.json" --out "$@"
}

target=()
if [ -n "$build" ]; then
	# First without the target folder: a package without a licence is named now, not after an hour
	mkdir -p "$work/reports"
	reports "$work/reports"
	buildroot -C "$work"
	for file in disk.img bzImage initrd.gz rootfs.squashfs; do cp --sparse=always "$work/images/$file" "$out/$file"; done
	target=(--target "$work/target")
fi
reports "$out" "${target[@]}"

rm -f "$out/configure.log"
cd "$out"
find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs -r -d '\n' sha256sum >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" SHA256SUMS
say "ready in $out"
