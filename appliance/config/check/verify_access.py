# SPDX-License-Identifier: GPL-2.0-only
"""Checks of the tables about access: management, user, metrics, syslog. Pure; verify.py yields from here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from appliance.config.check import public_key, verify_aaa, verify_snmp
from appliance.config.check.finding import Finding
from appliance.config.check.verify_probe import MANAGEMENT
from appliance.config.schema import limits
from appliance.config.schema.model import Config, Management, User

CRYPT_PREFIXES = ("$y$", "$gy$", "$7$", "$6$", "$5$", "$2b$", "$2y$")
_SYSTEM_NAMES = """\
root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc nobody sshd bypass ftp
dbus operator adm tty disk kmem dialout fax voice cdrom floppy tape sudo audio dip src shadow utmp video sasl plugdev
staff users nogroup input sgx clock kvm render rdma wheel utempter netdev messagebus systemd-network systemd-journal
systemd-timesync chrony snmp bypass-admin bypass-operator bypass-viewer"""
RESERVED = frozenset(_SYSTEM_NAMES.split())
"""Names of system users or groups, in either image."""


def findings(config: Config) -> Iterator[Finding]:
    """Everything that is wrong with these tables."""
    yield from _management(config.management)
    if config.management.lldp != "off" and not _has_address(config.management):
        what = "LLDP is for the management port, which is down without an address: set management address"
        yield Finding("management: lldp", ("management", "lldp"), what)
    yield from _users(config.user)
    yield from verify_aaa.findings(config, reachable=_has_address(config.management))
    if config.metrics.enabled and not _has_address(config.management):
        what = "metrics are read through the management port, which has no address: set management address"
        yield Finding("metrics: enabled", ("metrics", "enabled"), what)
    if config.metrics.enabled and config.metrics.port == config.management.ssh_port:
        yield Finding("metrics: port", ("metrics", "port"), f"{config.metrics.port} is already the port of SSH")
    yield from verify_snmp.findings(config, reachable=_has_address(config.management))
    yield from _guests(config)
    yield from _servers(config)
    yield from _allowed(config.management.allow)
    servers = config.syslog.servers
    if len(servers) > limits.MAX_SYSLOG:
        what = f"{len(servers)} servers are more than MAX_SYSLOG = {limits.MAX_SYSLOG}"
        yield Finding("syslog: servers", ("syslog", "servers"), what)
    for index, server in enumerate(servers):
        if trouble := server_trouble(server):
            yield Finding(f"syslog: servers {index + 1}", ("syslog", "servers", index), trouble)
    if config.syslog.ca and (trouble := ca_trouble(config.syslog.ca)):
        yield Finding("syslog: ca", ("syslog", "ca"), trouble)
    elif not config.syslog.ca and any(server.startswith("tls://") for server in servers):
        what = "tls:// needs the certificate of the server or of its CA: PEM text, with `load merge -`"
        yield Finding("syslog: ca", ("syslog", "servers"), what)
    if servers and not _has_address(config.management):
        what = "syslog is sent through the management port, which has no address: set management address"
        yield Finding("syslog: servers", ("syslog", "servers"), what)


def _guests(config: Config) -> Iterator[Finding]:
    """What of the guests needs a management port that is not set up; whose addresses are alike on its LAN."""
    owners: dict[str, str] = {}
    for index, guest in enumerate(config.guest):
        bridged = guest.management == "bridged"
        if bridged and not _has_address(config.management):
            what = "bridged needs the management port, which has no address: set management address"
            yield Finding(f"guest {guest.name}: management", ("guest", index, "management"), what)
        address = guest.management_mac.lower()
        if bridged and address and owners.setdefault(address, guest.name) != guest.name:
            what = f'"{address}" is the address of guest {owners[address]} on the management LAN'
            yield Finding(f"guest {guest.name}: management_mac", ("guest", index, "management_mac"), what)
        for number, probe in enumerate(guest.probes):
            if probe.via == MANAGEMENT and not _has_address(config.management):
                what = "the management port has no address to send probes from: set management address"
                yield Finding(f"guest {guest.name}: probes {number + 1}: via", ("guest", index, "probes", number), what)


_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


def _servers(config: Config) -> Iterator[Finding]:
    """Name servers and time servers."""
    for table, key, most in (("management", "dns", limits.MAX_DNS), ("time", "servers", limits.MAX_NTP)):
        named: tuple[str, ...] = getattr(getattr(config, table), key)
        where = f"{table}: {key}"
        if len(named) > most:
            limit = "MAX_DNS" if key == "dns" else "MAX_NTP"
            yield Finding(where, (table, key), f"{len(named)} servers are more than {limit} = {most}")
        if named and not _has_address(config.management):
            what = "they are reached through the management port, which has no address: set management address"
            yield Finding(where, (table, key), what)
        faults = name_server_trouble if key == "dns" else time_server_trouble
        for index, server in enumerate(named):
            if trouble := faults(server):
                yield Finding(f"{where} {index + 1}", (table, key, index), trouble)


def name_server_trouble(text: str) -> str:
    """Why this is no name server; "" if it is one."""
    return "" if _is_address(text) else f'"{text}" is not an address'


def time_server_trouble(text: str) -> str:
    """Why this is no time server; "" if it is one."""
    return "" if _is_address(text) or is_name(text) else f'"{text}" is not an address or a name'


def _allowed(networks: tuple[str, ...]) -> Iterator[Finding]:
    """Networks that may reach the services of the management port."""
    if len(networks) > limits.MAX_ALLOW:
        what = f"{len(networks)} networks are more than MAX_ALLOW = {limits.MAX_ALLOW}"
        yield Finding("management: allow", ("management", "allow"), what)
    for index, network in enumerate(networks):
        if trouble := network_trouble(network):
            yield Finding(f"management: allow {index + 1}", ("management", "allow", index), trouble)


def network_trouble(text: str) -> str:
    """Why this is no network; "" if it is one."""
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return f"not a network such as 192.0.2.0/24: {error}"
    return ""


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast)


def is_name(text: str) -> bool:
    """A host name; what looks like an IPv4 address and is none is no name either."""
    return bool(_HOST.fullmatch(text)) and not text.rpartition(".")[2].isdigit()


def _has_address(management: Management) -> bool:
    return bool(management.address or management.address6)


def _management(management: Management) -> Iterator[Finding]:
    for version, key, via in ((4, "address", "gateway"), (6, "address6", "gateway6")):
        address, gateway = getattr(management, key), getattr(management, via)
        own: ipaddress.IPv4Interface | ipaddress.IPv6Interface | None = None
        if address and not (version == 4 and address == "dhcp"):
            own, trouble = interface(address, version)
            if trouble:
                yield Finding(f"management: {key}", ("management", key), trouble)
        if gateway:
            yield from _gateway(via, gateway, address, own, version)


def interface(text: str, version: int) -> tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface | None, str]:
    """An address with prefix length that a host can have, or why it is not one."""
    example = '"192.0.2.10/24"' if version == 4 else '"2001:db8::10/64"'
    also = ' or "dhcp"' if version == 4 else ""
    wanted = f'"{text}" is not an IPv{version} address with prefix length, such as {example}{also}'
    if "/" not in text:
        return None, wanted
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        return None, wanted
    if found.version != version:
        return None, wanted
    network = found.network
    if found.ip.is_multicast or found.ip.is_loopback or found.ip.is_unspecified:
        return None, f'"{text}" is not an address that a port can have'
    if version == 4 and network.prefixlen < 31 and found.ip in (network.network_address, network.broadcast_address):
        return None, f'"{text}" is the network or broadcast address of {network}'
    return found, ""


def _gateway(
    key: str,
    text: str,
    address: str,
    own: ipaddress.IPv4Interface | ipaddress.IPv6Interface | None,
    version: int,
) -> Iterator[Finding]:
    where, path = f"management: {key}", ("management", key)
    try:
        gateway = ipaddress.ip_address(text)
    except ValueError:
        gateway = None
    if gateway is None or gateway.version != version:
        yield Finding(where, path, f'"{text}" is not an IPv{version} address')
    elif address == "dhcp":
        yield Finding(where, path, "is given by the DHCP server: leave it out")
    elif not address:
        yield Finding(where, path, f"is used only with a static IPv{version} address, and there is none")
    elif own is not None and gateway == own.ip:
        yield Finding(where, path, f'"{text}" is the address of the appliance itself')
    elif own is not None and gateway not in own.network and not gateway.is_link_local:
        yield Finding(where, path, f'"{text}" is not in {own.network}, the network of the management port')


def _users(users: tuple[User, ...]) -> Iterator[Finding]:
    if len(users) > limits.MAX_USERS:
        yield Finding("user", ("user",), f"{len(users)} users are more than MAX_USERS = {limits.MAX_USERS}")
    seen: set[str] = set()
    for index, user in enumerate(users):
        where = f"user {user.name}"
        if user.name in RESERVED:
            yield Finding(f"{where}: name", ("user", index, "name"), f'"{user.name}" is a name used by the system')
        if user.name in seen:
            yield Finding(f"{where}: name", ("user", index, "name"), f'"{user.name}" is already the name of a user')
        seen.add(user.name)
        if user.password and not is_crypt(user.password):
            what = f"must be a hash, not the password itself: `user {user.name} password` asks for it and hashes it"
            yield Finding(f"{where}: password", ("user", index, "password"), what)
        if len(user.keys) > limits.MAX_KEYS:
            what = f"{len(user.keys)} keys are more than MAX_KEYS = {limits.MAX_KEYS}"
            yield Finding(f"{where}: keys", ("user", index, "keys"), what)
        for number, key in enumerate(user.keys):
            if trouble := public_key.trouble(key):
                yield Finding(f"{where}: keys {number + 1}", ("user", index, "keys", number), trouble)


def is_crypt(text: str) -> bool:
    """Whether this is a password hash in the format of crypt(5), of a kind strong enough for network logins."""
    return text.startswith(CRYPT_PREFIXES) and bool(re.fullmatch(r"\$[./A-Za-z0-9$=,]{8,200}", text))


def server_trouble(text: str) -> str:
    """Why this is not a syslog server; "" when it is one. Addresses only: the appliance uses no name server."""
    wanted = f'"{text}" is not a server such as "udp://192.0.2.1:514", "tcp://[2001:db8::1]:601" or "tls://192.0.2.1"'
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        return wanted
    if url.scheme not in ("udp", "tcp", "tls") or url.path or url.query or url.fragment or url.username is not None:
        return wanted
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return f'"{text}": write the server\'s address; names are not resolved here'
    return wanted if port == 0 else ""


def ca_trouble(text: str) -> str:
    """Why these are not certificates; "" when they are."""
    import ssl  # slow to import, and rarely needed

    if "PRIVATE KEY" in text:
        return "is a private key; only the certificate belongs here"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) else str(error)
        return f"is not a PEM certificate, from -----BEGIN CERTIFICATE----- to its end: {why or error}"
    return ""
