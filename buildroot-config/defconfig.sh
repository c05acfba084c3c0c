#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# defconfig.sh BOARD: the board's defconfig on standard output: what all boards share, then the board's own part.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ $# != 1 ] || [ "$1" = common ] || ! [ -f "$here/boards/$1.config" ]; then
	echo "defconfig: no such board; there are:" >&2
	find "$here/boards" -name '*.config' ! -name common.config -printf '  %f\n' | sort | sed 's/\.config$//' >&2
	exit 2
fi
cat "$here/boards/common.config" "$here/boards/$1.config"
