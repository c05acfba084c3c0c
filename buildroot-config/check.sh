#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# check.sh [BUILDROOT_DIR [LINUX_DIR]]: hold this tree against what the code uses, and against the sources of a real
# Buildroot and of a kernel where they are given. Nothing is downloaded or built, and nothing is written into these folders
# or this tree. Exit 0 when all holds, 1 when something does not; each failure has its line. What cannot be checked for
# want of a tree is said: SKIPPED.
set -euo pipefail

# shellcheck disable=SC2034  # lib.sh uses it
me=check-image
here="" python="" release="" version="" top="" # lib.sh sets them
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
failed=0
fail() {
	echo "check-image: FAILED: $*" >&2
	failed=1
}
# imagecheck ...: each complaint is a line on standard error
imagecheck() { PYTHONPATH="$here/../board:$here/.." "$python" -m imagecheck "$@"; }
boards=()
for config in "$here"/boards/*.config; do
	name=$(basename "$config" .config)
	[ "$name" = common ] || boards+=("$name")
done

[ $# -le 2 ] || give_up "usage: check.sh [BUILDROOT_DIR (a Buildroot $release.x tree) [LINUX_DIR]]"
[ -z "${1:-}" ] || find_buildroot "$1"
imagecheck sources || fail "the image lacks what the code uses"
if [ -n "${2:-}" ]; then
	[ -f "$2/Kconfig" ] || give_up "$2 is no kernel source tree"
	for name in "${boards[@]}"; do imagecheck kernel "$name" --source "$2" || fail "$name: kernel options"; done
else
	say "SKIPPED: kernel options are not resolved: LINUX=DIR is not given (a kernel's source tree)"
fi
if [ -z "${1:-}" ]; then
	say "SKIPPED: defconfigs, show-info and check-package: BUILDROOT=DIR is not given (a Buildroot $release.x tree)"
	[ "$failed" = 0 ] || exit 1
	say "all that needs no tree is good"
	exit 0
fi

say "Buildroot $version in $top"

work=$(mktemp -d "${TMPDIR:-/tmp}/check-image.XXXXXX")
trap 'rm -rf "$work"' EXIT

# check_defconfig BOARD: loads it, then compares what came out with what was asked for.
check_defconfig() {
	local name=$1 file out line path lines=0 before=$failed
	out=$work/$name
	file=$out/throughwire_defconfig
	mkdir -p "$out"

	if ! configure "$name" "$out" >"$out/load.log" 2>&1; then
		fail "$name: Buildroot does not load it: $(grep -v '^make' "$out/load.log" | tail -n 3)"
		return
	fi
	# kconfig warns of what it cannot read, and goes on.
	while read -r line; do fail "$name: $line"; done < <(grep -iE 'warning|unmet' "$out/load.log" || true)
	buildroot -s -C "$out" olddefconfig >"$out/old.log" 2>&1 || fail "$name: olddefconfig: $(tail -n 3 "$out/old.log")"

	# Every line counts but empty ones and remarks; "# SYMBOL is not set" is no remark.
	while IFS= read -r line; do
		lines=$((lines + 1))
		grep -qxF -e "$line" "$out/.config" || fail "$name: line lost: $line"
	done < <(grep -vE '^$|^#' "$file"; grep -E '^# [A-Za-z0-9_]+ is not set$' "$file")
	say "$name: $lines lines held against .config"

	imagecheck config "$out/.config" "$top/package/busybox/busybox.config" "$name" ||
		fail "$name: the image lacks what the code uses"

	while read -r path; do
		[ -e "$path" ] || fail "$name: no such file or folder: $path"
	done < <(grep -oE '\$\(BR2_EXTERNAL_THROUGHWIRE_PATH\)[^" ]*' "$file" | sed "s|^\$(BR2_EXTERNAL_THROUGHWIRE_PATH)|$here|")

	if ! buildroot -s -C "$out" show-info >"$out/info.json" 2>"$out/info.log"; then
		fail "$name: show-info: $(tail -n 3 "$out/info.log")"
	elif ! "$python" "$here/check_info.py" "$here/.." <"$out/info.json"; then
		fail "$name: show-info does not say what it should"
	fi
	if ! buildroot -s -C "$out" external-deps >"$out/deps" 2>"$out/deps.log"; then
		fail "$name: external-deps: $(tail -n 3 "$out/deps.log")"
	else
		say "$name: $(wc -l <"$out/deps") files to download"
	fi
	[ "$failed" != "$before" ] || say "$name: good"
}

for name in "${boards[@]}"; do check_defconfig "$name"; done

# check-package needs to be in Buildroot's top folder; it must leave no bytecode there.
if ! "$python" -c 'import flake8, magic' 2>/dev/null; then
	fail "check-package needs the Python modules flake8 and magic: pip install flake8 python-magic"
elif (cd "$top" && find "$here" -type f ! -name '*.pyc' -print0 | sort -z |
	PYTHONDONTWRITEBYTECODE=1 xargs -0 "$python" utils/check-package -q -b) >"$work/package.log" 2>&1; then
	say "check-package: clean"
else
	fail "check-package:"
	cat "$work/package.log" >&2
fi

[ "$failed" = 0 ] || exit 1
say "all good"
