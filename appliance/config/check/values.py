# SPDX-License-Identifier: GPL-2.0-only
"""What can be known of one value alone, so that `set` refuses it at once. Pure but for the compiling of filters.

verify.py checks the whole configuration, these values among it; what depends on other keys is only known there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Final

from appliance.config.check import (
    load,
    public_key,
    verify,
    verify_aaa,
    verify_access,
    verify_machine,
    verify_remote,
    verify_snmp,
)
from appliance.config.schema import secrets
from appliance.errors import BypassError, FilterError
from appliance.units import Duration, Size


def trouble(key: str, value: Any) -> str:
    """Why `value` (an item, of a list) can never be that of `key` (dotted, without names); "" if it can."""
    if value == secrets.HIDDEN:
        return ""  # it stays what it is
    if isinstance(value, Duration | Size):
        return verify.beyond(key, value)
    check = _CHECKS.get(key)
    return check(value) if check is not None and value != "" else ""


def _mtu(value: int) -> str:
    return verify.mtu_trouble(value)


def _own(version: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        return "" if version == 4 and text == "dhcp" else verify_access.interface(text, version)[1]

    return check


def _gateway(version: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            return "" if ipaddress.ip_address(text).version == version else _not(text)
        except ValueError:
            return _not(text)

    def _not(text: str) -> str:
        return f'"{text}" is not an IPv{version} address'

    return check


def _hash(text: str) -> str:
    wanted = "must be a hash, not the password itself: `user NAME password` asks for it and hashes it"
    return "" if verify_access.is_crypt(text) else wanted


def _filter(text: str) -> str:
    try:
        load.compiler()(text, ())
    except FilterError as error:
        return " ".join(error.what.split()) + (f" ({error.place})" if error.place else "")
    except BypassError:
        pass  # not this filter's fault: a commit says it
    return ""


def _first(faults: Callable[[str], Any]) -> Callable[[str], str]:
    return lambda text: next(iter(faults(text)), "")


_CHECKS: Final[dict[str, Callable[[Any], str]]] = {
    "segment.mtu": _mtu,
    "guest.mtu": _mtu,
    "management.address": _own(4),
    "management.address6": _own(6),
    "management.gateway": _gateway(4),
    "management.gateway6": _gateway(6),
    "management.dns": verify_access.name_server_trouble,
    "management.allow": verify_access.network_trouble,
    "time.servers": verify_access.time_server_trouble,
    "user.password": _hash,
    "user.keys": public_key.trouble,
    "syslog.servers": verify_access.server_trouble,
    "syslog.ca": verify_access.ca_trouble,
    **{f"{table}.address": verify_aaa.address_trouble for table in ("radius", "tacacs")},
    **{f"{table}.secret": verify_aaa.secret_trouble for table in ("radius", "tacacs")},
    "snmp.receiver.address": verify_aaa.address_trouble,
    **{f"snmp.{key}": verify_snmp.text_trouble for key in ("location", "contact")},
    **{f"snmp.user.{key}": verify_snmp.passphrase_trouble for key in ("auth_passphrase", "priv_passphrase")},
    "rule.match": _filter,
    "guest.accept": _filter,
    "remote.accept": _filter,
    **{
        f"{table}.tunnel.{key}": verify_remote.address_trouble
        for table in ("remote", "serve")
        for key in ("remote", "wan_remote", "local")
    },
    **{f"guest.{key}": _first(verify_machine.address_faults) for key in ("lan_mac", "wan_mac", "management_mac")},
    **{f"guest.{key}": _first(verify_machine.file_faults) for key in ("image", "kernel", "initrd", "disks.image")},
}
