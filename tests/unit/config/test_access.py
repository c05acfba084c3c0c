# SPDX-License-Identifier: GPL-2.0-only
"""Tables about access: valid ones load, errors are named, and no text reveals a secret."""

import pytest

from appliance.config.check.load import check, loads
from appliance.config.schema.secrets import HIDDEN, SECRET_KEYS, hide, redact
from tests.support.tls_pair import KEY as TLS_KEY
from tests.support.tls_pair import SERVER

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKvN4wQp7bT3cS4k0s8l8yq1u0m3t8m8a3i8d2cJ0aV me@laptop"
HASH = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7"
GOOD = f"""\
[management]
address = "192.0.2.10/24"
gateway = "192.0.2.1"
address6 = "2001:db8::10/64"
gateway6 = "fe80::1"
idle_timeout = "15min"
dns = ["192.0.2.53", "2001:db8::53"]
allow = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]

[time]
zone = "Europe/Berlin"
servers = ["192.0.2.1", "ntp.example.net", "2001:db8::1"]

[[user]]
name = "admin"
role = "admin"
password = "{HASH}"

[[user]]
name = "noc"
keys = ["{KEY}"]

[metrics]
enabled = true

[syslog]
servers = ["udp://192.0.2.1:514", "tcp://[2001:db8::1]:601", "tls://192.0.2.1"]
severity = "notice"
ca = '''
{SERVER}'''
"""


def errors(text: str) -> list[str]:
    return [f"{error.where}: {error.what}" for error in check(text, filters=False)]


def test_good_tables_load() -> None:
    config = loads(GOOD, filters=False)
    assert [(user.name, user.role) for user in config.user] == [("admin", "admin"), ("noc", "viewer")]
    assert config.management.ssh
    assert config.management.idle_timeout.seconds == 900
    assert config.metrics.port == 9469


def test_lldp_needs_the_port_that_it_is_for() -> None:
    (found,) = errors('[management]\nlldp = "on"')
    assert found.startswith("management: lldp: LLDP is for the management port, which is down without an address")
    assert errors('[management]\naddress = "dhcp"\nlldp = "receive"') == []
    assert errors('[management]\naddress = "dhcp"\nlldp = "transmit"')


def test_nothing_is_open_by_default() -> None:
    config = loads("", filters=False)
    assert not config.management.address
    assert not config.user
    assert not config.metrics.enabled
    assert not config.syslog.servers


WRONG = [
    ('[management]\naddress = "192.0.2.10"', 'management: address: "192.0.2.10" is not an IPv4 address with prefix'),
    ('[management]\naddress = "192.0.2.0/24"', "is the network or broadcast address of 192.0.2.0/24"),
    ('[management]\naddress = "127.0.0.1/8"', "is not an address that a port can have"),
    ('[management]\naddress = "2001:db8::1/64"', "is not an IPv4 address"),
    ('[management]\naddress6 = "192.0.2.1/24"', "management: address6"),
    ('[management]\ngateway = "192.0.2.1"', "only with a static IPv4 address"),
    ('[management]\naddress = "dhcp"\ngateway = "192.0.2.1"', "is given by the DHCP server"),
    ('[management]\naddress = "192.0.2.10/24"\ngateway = "192.0.3.1"', "is not in 192.0.2.0/24"),
    ('[management]\naddress = "192.0.2.10/24"\ngateway = "192.0.2.10"', "the appliance itself"),
    ("[management]\nssh_port = 0", "management: ssh_port: 0 is too small"),
    ('[management]\nidle_timeout = "48h"', "management: idle_timeout"),
    ('[[user]]\nname = "root"', 'user root: name: "root" is a name used by the system'),
    ('[[user]]\nname = "a"\n[[user]]\nname = "a"', "already the name of a user"),
    ('[[user]]\nname = "a"\npassword = "secret"', "user a: password: must be a hash"),
    ('[[user]]\nname = "a"\npassword = "$1$abcdefgh$Qz1Hk8Yy7l6w"', "user a: password: must be a hash"),
    ('[[user]]\nname = "a"\npassword = "$6$x:0:0:evil"', "user a: password: must be a hash"),
    ('[[user]]\nname = "a"\nrole = "god"', "is not one of viewer, operator, admin"),
    ('[[user]]\nname = "a"\nkeys = ["hello"]', "user a: keys 1: is not a public key"),
    (f'[[user]]\nname = "a"\nkeys = ["{KEY[:50]}"]', "user a: keys 1: is damaged"),
    (f'[[user]]\nname = "a"\nkeys = ["command=\\"x\\" {KEY}"]', "user a: keys 1: has options before its type"),
    (f'[[user]]\nname = "a"\nkeys = ["{KEY}\\nssh-rsa AAAA"]', "user a: keys 1: a key is one line"),
    ("[metrics]\nenabled = true", "metrics: enabled: metrics are read through the management port"),
    ('[syslog]\nservers = ["192.0.2.1"]', "syslog: servers 1"),
    ('[syslog]\nservers = ["udp://log.example:514"]', "names are not resolved here"),
    ('[syslog]\nservers = ["udp://192.0.2.1:514"]', "syslog is sent through the management port"),
    ('[syslog]\nservers = ["udp://192.0.2.1:99999"]', "syslog: servers 1"),
    ('[syslog]\nservers = ["tls://192.0.2.1"]', "tls:// needs the certificate"),
    ('[syslog]\nca = "hello"', "syslog: ca: is not a PEM certificate"),
    (f'[syslog]\nca = """{SERVER[:200]}"""', "syslog: ca: is not a PEM certificate"),
    (f'[syslog]\nca = """{TLS_KEY}{SERVER}"""', "syslog: ca: is a private key"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_error(text: str, expected: str) -> None:
    found = errors(text)
    assert any(expected in one for one in found), found
    assert not any("secret" in one for one in found)


def test_secrets_leave_with_no_text() -> None:
    assert {"password", "secret", "preshared_key", "auth_passphrase", "priv_passphrase"} == SECRET_KEYS
    shown = redact(GOOD)
    assert HASH not in shown
    assert f'password = "{HIDDEN}"' in shown
    assert KEY in shown
    loads(shown.replace(f'password = "{HIDDEN}"', ""), filters=False)


@pytest.mark.parametrize(
    "text",
    [
        '+password = "hunter2"',
        "-  password='hunter2'",
        'user = [{ name = "a", password = "hunter2", role = "admin" }]',
        'password = "hunter2',
        'password = """\nhunter2\n"""',
        '"password" = "hunter2"',
        'password = "hun\\"ter2 hunter2"',
        'url = "http://me:hunter2@192.0.2.1/"',
    ],
)
def test_secret_values_are_found_in_any_writing(text: str) -> None:
    assert "hunter2" not in redact(text)


def test_bare_hashes_are_secret_too() -> None:
    assert HASH not in redact(f"old hash was {HASH}.")
    data = hide({"user": [{"name": "a", "password": "clear"}], "why": f"set to {HASH}"})
    assert "clear" not in str(data)
    assert HASH not in str(data)


ADDRESS = '[management]\naddress = "192.0.2.10/24"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ADDRESS + 'dns = ["ns.example.net"]', 'management: dns 1: "ns.example.net" is not an address'),
        (ADDRESS + 'dns = ["0.0.0.0"]', 'management: dns 1: "0.0.0.0" is not an address'),
        (ADDRESS + 'dns = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]', "4 servers are more than MAX_DNS = 3"),
        (ADDRESS + 'allow = ["192.0.2.1/24"]', "management: allow 1: not a network such as 192.0.2.0/24"),
        (ADDRESS + 'allow = ["port 22"]', "management: allow 1: not a network"),
        (ADDRESS + f"allow = {['192.0.2.7'] * 65}", "65 networks are more than MAX_ALLOW = 64"),
        ('[time]\nservers = ["192.0.2.1"]', "time: servers: they are reached through the management port"),
        (ADDRESS + '[time]\nservers = ["192.0.2"]', 'time: servers 1: "192.0.2" is not an address or a name'),
        (ADDRESS + '[time]\nservers = ["a b"]', '"a b" is not an address or a name'),
        (ADDRESS + '[time]\nservers = ["x iburst\\nallow"]', "is not an address or a name"),
        ('[time]\nzone = "../etc/passwd"', "time: zone"),
        ('[time]\nzone = "berlin"', "time: zone"),
    ],
)
def test_servers_that_cannot_be_used_are_named(text: str, said: str) -> None:
    """What goes on the command line of the NTP client or into resolv.conf is an address or a name, and nothing else."""
    assert any(said in error for error in errors(text)), errors(text)
