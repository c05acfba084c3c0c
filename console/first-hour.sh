#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The first hour of an appliance: setup, SSH, a rule, a commit that locks out, backup, reboot, restore.
# first-hour.sh SERIAL-LINE ADDRESS/PREFIX KEY PASSPHRASE-FILE GUEST: first-hour.sh /dev/ttyUSB0 192.0.2.10/24 id phrase ips1
set -eu
serial=$1 address=$2 key=$3 phrase=$4 guest=$5 ssh=${SSH:-ssh -o StrictHostKeyChecking=accept-new}
on_box() { $ssh -i "$key" -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=5 "admin@${address%/*}" "$@"; }
answers() { on_box show version </dev/null >/dev/null 2>&1; }
free() { on_box show candidate </dev/null 2>/dev/null | grep -q 'edited by nobody'; }
# Setup on the serial line, typed again until SSH answers and nobody edits: what is there already is no change.
stty -F "$serial" 115200 raw -echo
until free; do
  printf '%s\r' no "" configure "set management address $address" "set user admin role admin" \
    "set user admin keys \"$(cat "$key.pub")\"" "commit comment setup" "exit" >"$serial"
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5; if free; then break; fi; done
done
# A rule before the others, by a script that is committed as a whole or not at all
printf '%s\n' 'set rule web match "tcp port 80"' "set rule web path $guest" 'move rule web first' | on_box configure
# A commit that takes the address away: nobody can confirm it, so it is rolled back and SSH answers again.
printf '%s\n' 'delete management address' 'commit confirmed 20' | on_box configure || true
until answers; do sleep 2; done
on_box show status | grep 'rolled back'
on_box backup - <"$phrase" >box.backup
# A reboot: the link is joined first. Then the rule is lost and the backup has it.
on_box reboot now
while answers; do sleep 1; done
until answers; do sleep 2; done
on_box configure delete rule web
cat "$phrase" box.backup | on_box restore -
on_box show configuration rule web
