#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The guest agent in POSIX shell: one file, no dependencies. Protocol and options: README.md beside it.
#
#   throughwire-agent.sh [-p PORT] [-i SECONDS] [-s COMMAND] [-a FILTER] [-c FOLDER] [-f FIFO]    run as the agent
#   throughwire-agent.sh [-f FIFO] accept [FILTER] | drain on|off | bypass on|off [WHY] | tags on|off    tell the agent
#   throughwire-agent.sh [-f FIFO] takes NAME...
#   throughwire-agent.sh [-f FIFO] shunt tcp|udp LAN:PORT WAN:PORT [SECONDS] | unshunt tcp|udp LAN:PORT WAN:PORT
set -u

port=/dev/virtio-ports/org.throughwire.agent.0
interval=1
status_command=
filter=
checks=/etc/throughwire/checks
fifo=/run/throughwire-agent

die() {
	echo "throughwire-agent: $*" >&2
	exit 1
}

usage() {
	sed -n 's/^#   //p' "$0" >&2
	exit 2
}

# Text that is safe inside a JSON string: printable ASCII without quotes and backslashes, of limited length.
plain() {
	printf '%s' "$1" | LC_ALL=C tr -d '\042\134' | LC_ALL=C tr -c ' -~' ' ' | cut -c "1-$2"
}

switch() {
	case $1 in
	on) echo true ;;
	off) echo false ;;
	*) usage ;;
	esac
}

# One end of a flow, ADDRESS:PORT or [IPV6]:PORT, as members of a message: "lan" or "wan", the end.
end() {
	number=${2##*:}
	address=${2%:*}
	case $number in
	"" | *[!0-9]*) usage ;;
	esac
	printf '"%s":"%s","%s_port":%s' "$1" "$(plain "$address" 64 | tr -d '[]')" "$1" "$number"
}

# A flow: "true" or "false", protocol, end at the LAN, end at the WAN, seconds.
shunt() {
	case ${5-} in
	*[!0-9]*) usage ;;
	esac
	lan=$(end lan "$3") && wan=$(end wan "$4") || exit 2
	printf '{"type":"shunt","on":%s,"protocol":"%s",%s,%s%s}' "$1" "$(plain "$2" 3)" "$lan" "$wan" "${5:+,\"time_s\":$5}"
}

while getopts p:i:s:a:c:f: option; do
	case $option in
	p) port=$OPTARG ;;
	i) interval=$OPTARG ;;
	s) status_command=$OPTARG ;;
	a) filter=$OPTARG ;;
	c) checks=$OPTARG ;;
	f) fifo=$OPTARG ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))

# -- order to the running agent

if [ $# -gt 0 ]; then
	[ -p "$fifo" ] || die "$fifo does not exist: is the agent running?"
	case $1 in
	accept) line="{\"type\":\"accept\",\"filter\":\"$(plain "${2-}" 1024)\"}" ;;
	takes)
		[ $# -gt 1 ] || usage
		shift
		names=
		for name; do names="$names,\"$(plain "$name" 64)\""; done
		line="{\"type\":\"accept\",\"names\":[${names#,}]}"
		;;
	drain | tags) line="{\"type\":\"$1\",\"on\":$(switch "${2-}")}" || exit 2 ;;
	bypass) line="{\"type\":\"bypass\",\"on\":$(switch "${2-}"),\"why\":\"$(plain "${3-}" 200)\"}" || exit 2 ;;
	shunt) line=$(shunt true "${2-}" "${3-}" "${4-}" "${5-}") || exit 2 ;;
	unshunt) line=$(shunt false "${2-}" "${3-}" "${4-}") || exit 2 ;;
	*) usage ;;
	esac
	printf '%s\n' "$line" >"$fifo"
	exit
fi

# -- run as the agent

say() {
	printf '%s\n' "$1" >&3
}

# What the host must know about us; sent again whenever a host connects, as it may be a new one.
introduce() {
	say '{"type":"hello","version":1,"agent":"throughwire-agent.sh","capabilities":["accept","drain","bypass","tags","shunt","check"]}'
	if [ -f "$fifo.accept" ]; then
		:
	elif [ -n "$filter" ]; then
		say "{\"type\":\"accept\",\"filter\":\"$(plain "$filter" 1024)\"}"
	fi
	for kind in accept drain bypass tags; do
		[ ! -f "$fifo.$kind" ] || say "$(cat "$fifo.$kind")"
	done
}

# An order from inside the guest: send it to the host now, and keep it for one that connects later.
pass_on() {
	kind=${1#*'"type":"'}
	kind=${kind%%'"'*}
	case $kind in
	accept | drain | bypass | tags) printf '%s\n' "$1" >"$fifo.$kind" ;;
	esac
	say "$1"
}

forget() {
	rm -f "$fifo" "$fifo.accept" "$fifo.drain" "$fifo.bypass" "$fifo.tags"
}

# The application's state: "ok", or the first line of its status command.
status() {
	if [ -z "$status_command" ]; then
		echo ok
	elif said=$(sh -c "$status_command" 2>&1); then
		echo ok
	else
		said=$(plain "${said%%
*}" 64)
		echo "${said:-failed}"
	fi
}

# A check that the administrator configured: a program of this name in the folder of checks; nothing else is run.
check() {
	case $2 in
	"" | .* | *[!A-Za-z0-9_.-]*) result="there is no such check" ;;
	*)
		if [ ! -x "$checks/$2" ]; then
			result="there is no such check"
		elif said=$("$checks/$2" 2>&1); then
			result=ok
		else
			result=$(plain "${said%%
*}" 200)
			result=${result:-failed}
		fi
		;;
	esac
	say "{\"type\":\"result\",\"id\":$1,\"status\":\"$result\"}"
}

# The value of a key in a line; the host's lines are flat, and its words contain no quotes.
value() {
	printf '%s' "$2" | sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p"
}

obey() {
	case $(value type "$1") in
	hello) introduce ;;
	check)
		id=$(value id "$1")
		case $id in
		"" | *[!0-9]*) ;;
		*) check "$id" "$(value command "$1")" ;;
		esac
		;;
	shutdown) poweroff || shutdown -P now ;;
	answer)
		case $1 in
		*'"ok": false'* | *'"ok":false'*) echo "throughwire-agent: refused: $1" >&2 ;;
		esac
		;;
	esac
}

[ -c "$port" ] || [ -p "$port" ] || die "$port does not exist: is this guest run by Throughwire?"
exec 3<>"$port" || die "$port cannot be opened: is another agent running?"
forget
(umask 077 && mkfifo "$fifo") || die "$fifo cannot be created"
children=
stop() {
	trap '' INT TERM
	trap - EXIT
	forget
	for child in $children; do kill "$child" 2>/dev/null; done
	exit 0
}
trap stop EXIT INT TERM

introduce
# Our end of the pipe is open for writing too, so the reader never sees the end of file.
while IFS= read -r line; do pass_on "$line"; done <>"$fifo" &
children="$children $!"
while :; do
	say "{\"type\":\"heartbeat\",\"status\":\"$(status)\"}"
	sleep "$interval"
done &
children="$children $!"
while :; do
	while IFS= read -r line <&3; do obey "$line"; done
	sleep 1 # no host is connected
done &
children="$children $!"
# A signal always ends this wait, but not always a read.
wait
