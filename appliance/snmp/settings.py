# SPDX-License-Identifier: GPL-2.0-only
"""snmpd's configuration and command line. Pure.

SNMPv3 alone: no community is named, so versions 1 and 2c are refused. Every user needs authentication and encryption,
and reads what is in the view; nothing can be set. Of Debian's agent only the modules in MODULES are started, and
bypassd answers for the rest (session.py); the agent of the images for hardware is built with little else.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from appliance.config.schema import snmp_keys
from appliance.config.schema.model import Config, SnmpReceiver, SnmpUser

MODULES: Final = (
    "system_mib", "sysORTable", "snmp_mib", "snmpEngine", "snmpMPDStats", "usmStats", "usmConf", "usmUser",
    "vacm_conf", "vacm_vars", "setSerialNo", "target_counters",
)  # fmt: skip
VIEW: Final = (
    ".1.3.6.1.2.1.1", ".1.3.6.1.2.1.2", ".1.3.6.1.2.1.11", ".1.3.6.1.2.1.31", ".1.3.6.1.2.1.47", ".1.3.6.1.2.1.99",
    ".1.3.6.1.2.1.131", ".1.3.6.1.4.1.8072.1.3.2.3", ".1.3.6.1.6.3.10", ".1.3.6.1.6.3.11", ".1.3.6.1.6.3.15.1.1",
)  # fmt: skip
"""What users may read: neither the table of users nor that of their rights is in it."""
_DIGESTS: Final = {"sha-256": "SHA-256", "sha-384": "SHA-384", "sha-512": "SHA-512"}
_CIPHERS: Final = {"aes-128": "AES"}
TRIES, WAIT_S = 4, 2
"""How often an inform is repeated, and how long snmpd waits for the acknowledgement."""


def configuration(config: Config, *, engine: bytes, about: str, socket: Path) -> str:
    """The text of snmpd.conf. It has keys that are good for this engine, and those of informs: 0600."""
    snmp, management = config.snmp, config.management
    places = [f"udp:{snmp.port}"] if management.address else []
    places += [f"udp6:[::]:{snmp.port}"] if management.address6 else []
    lines = [
        f"agentaddress {','.join(places)}",
        f"exactEngineID 0x{engine.hex()}",
        f"sysDescr {_line(about)}",
        f"sysName {config.system.hostname}",
        f"sysLocation {_line(snmp.location)}",
        f"sysContact {_line(snmp.contact)}",
        "sysServices 2",  # a repeater: the link layer
        "dontLogTCPWrappersConnects yes",
        "authtrapenable 1",
        "master agentx",
        f"agentXSocket {socket}",
        "agentXPerms 0600 0700",
        "agentXTimeout 5",
        "agentXRetries 0",
        *(f"view offered included {subtree}" for subtree in VIEW),
    ]
    for user in snmp.user:
        auth, priv = keys(user, engine)
        what = f"{_DIGESTS[user.auth]} -l 0x{auth.hex()} {_CIPHERS[user.priv]} -l 0x{priv.hex()}"
        lines.append(f"createUser {user.name} {what}")
        if user.access == "read":
            lines.append(f"rouser -s usm {user.name} priv -V offered")
    users = {user.name: user for user in snmp.user}
    lines += [_receiver(each, users[each.user], engine) for each in snmp.receiver]
    return "\n".join(lines) + "\n"


def keys(user: SnmpUser, engine: bytes) -> tuple[bytes, bytes]:
    """The keys of a user for one engine: to authenticate and to encrypt."""
    auth, priv = (
        snmp_keys.localized(value, user.auth, engine) for value in (user.auth_passphrase, user.priv_passphrase)
    )
    return auth, priv[: snmp_keys.AES_BYTES]


def _receiver(receiver: SnmpReceiver, user: SnmpUser, engine: bytes) -> str:
    """A trap is one of our engine, so our keys for it fit; an inform is one of the receiver's, which snmpd asks for."""
    words = ["trapsess", "-v", "3", "-u", user.name, "-l", "authPriv"]
    words += ["-a", _DIGESTS[user.auth], "-x", _CIPHERS[user.priv]]
    if receiver.kind == "trap":
        auth, priv = keys(user, engine)
        words += ["-e", f"0x{engine.hex()}", "-3k", f"0x{auth.hex()}", "-3K", f"0x{priv.hex()}"]
    else:
        auth_key, priv_key = (snmp_keys.key(value, user.auth) for value in (user.auth_passphrase, user.priv_passphrase))
        words += ["-Ci", "-r", str(TRIES), "-t", str(WAIT_S), "-3m", auth_key, "-3M", priv_key]
    address = ipaddress.ip_address(receiver.address)
    where = f"udp6:[{address}]:{receiver.port}" if address.version == 6 else f"udp:{address}:{receiver.port}"
    return " ".join([*words, where])


def command(settings: Path, kept: Path, account: str) -> list[str]:
    """The command line: in the foreground, what it has to say to its output, without rights once the port is open.

    It reads `snmpd.conf` in the folder `settings`, and what it keeps itself in `kept`: its count of starts, which -C,
    or a path without that folder, would begin anew.
    """
    words = ["env", f"SNMPCONFPATH={settings}:{kept}", f"SNMP_PERSISTENT_DIR={kept}", "MIBS=", "snmpd", "-f", "-Lo"]
    return [*words, "-I", ",".join(MODULES), "-u", account, "-g", account]


def _line(text: str) -> str:
    """A text that snmpd reads to the end of the line; it would take a # at its begin for a comment."""
    return " ".join(text.split()) or "-"
