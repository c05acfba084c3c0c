# SPDX-License-Identifier: GPL-2.0-only
"""Logins over SSH that RADIUS and TACACS+ servers decide: OpenSSH's client, the image's own server with its hook."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from simulator import netns

from appliance.access.groups import FIRST_REMOTE, GROUPS
from appliance.config.schema.model import Aaa, Config, Radius, Tacacs, User
from appliance.system.password import hashed
from appliance.units import Duration
from tests.support.aaa_servers import SECRET, RadiusServer, TacacsServer, running
from tests.support.ssh_site import ADDRESS, Site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

LOCAL = User(name="rescue", role="admin", password=hashed("a local phrase"))
BOTH = User(name="ann", role="viewer", password=hashed("the local one"))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Site() as made:
        yield made


def radius(server: RadiusServer, **more: Any) -> Radius:
    wish: dict[str, Any] = {
        "name": "r1",
        "address": ADDRESS,
        "secret": SECRET,
        "port": server.port,
        "accounting_port": server.port,
    }
    return Radius(**(wish | {"timeout": Duration(9 * 10**9), "tries": 1} | more))


def group(role: str) -> int:
    return GROUPS[f"bypass-{role}"]


def test_radius_gives_the_role(site: Site) -> None:
    """A user that nobody here knows gets the group of the role from the attribute, an id of its own, and keeps it."""
    server = RadiusServer({"ann.b": ("far away", "operator"), "eve": ("far away", "janitor"), "root": ("x", "admin")})
    with running(server, make=site.make()):
        aaa = Aaa(order=("radius", "local"), accounting="sessions")
        site.apply(Config(user=(LOCAL,), aaa=aaa, radius=(radius(server),)))
        got = site.log_in("ann.b", "far away", "show", "version")
        assert got.out == f"ann.b {FIRST_REMOTE} 900 {group('operator')}  -c show version", got.err
        server.users["ann.b"] = ("far away", "admin")
        again = site.log_in("ann.b", "far away")
        assert again.out.split()[1:4] == [str(FIRST_REMOTE), "900", str(group("admin"))]
        for user, password in (("ann.b", "wrong"), ("eve", "far away"), ("nobody1", "x"), ("root", "x")):
            assert site.log_in(user, password).status == 255, user
        wait_until(lambda: len(server.reports) >= 4, "begin and end of both sessions")
    passwd = (site.root / "etc/passwd").read_text()
    assert f"ann.b:x:{FIRST_REMOTE}:900:" in passwd
    assert "eve" not in passwd, "who was refused leaves no account"
    assert "ann.b:*:" in (site.root / "etc/shadow").read_text()
    said = "\n".join(site.said())
    assert "user ann.b: logged in from 127.0.0.1 by password, radius server r1, role operator" in said
    assert "user ann.b: login from 127.0.0.1 failed: radius server r1: refused" in said
    assert 'failed: radius server r1 gives no role that is known here: it sent "janitor"' in said
    assert [request[1] for request in server.asked].count([b"root"]) == 0, "names of the system are never asked about"


def test_keys_let_no_remote_user_in(site: Site) -> None:
    """Even where one got into the home: without a server's word there is no role."""
    server = RadiusServer({"key": ("far away", "admin")})
    with running(server, make=site.make()):
        site.apply(Config(user=(LOCAL,), aaa=Aaa(order=("radius", "local")), radius=(radius(server),)))
        assert site.log_in("key", "far away").status == 0
        private = site.root / "tmp/id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private], check=True)
        keys = site.root / "run/bypass/home/key/.ssh"
        keys.mkdir(exist_ok=True)
        (keys / "authorized_keys").write_text(private.with_suffix(".pub").read_text())
        for path in (keys, keys / "authorized_keys"):
            os.chown(path, keys.parent.stat().st_uid, -1)
        words = [word.replace("PubkeyAuthentication=no", "PubkeyAuthentication=yes") for word in site.words("key")]
        done = subprocess.run(
            netns.inside(site.name, *words, "-i", str(private), "-o", "BatchMode=yes"),
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("", 255)
        wait_until(lambda: "Error changing user group" in site.log.read_text(), "the server says why")


def test_tacacs_gives_the_role(site: Site) -> None:
    server = TacacsServer({"tom": ("far away", "priv-lvl=7"), "tim": ("far away", "")})
    with running(server, make=site.make()):
        wish = Tacacs(name="t1", address=ADDRESS, secret=SECRET, port=server.port)
        site.apply(Config(user=(LOCAL,), aaa=Aaa(order=("tacacs", "local"), accounting="commands"), tacacs=(wish,)))
        got = site.log_in("tom", "far away")
        assert got.out.split()[2:4] == ["900", str(group("operator"))], got.err
        assert site.log_in("tim", "far away").status == 255, "no level, no role"
        assert site.log_in("tom", "wrong").status == 255
        wait_until(lambda: len(reported(server)) == 2, "begin and end of the session")
    assert f"login tom from {ADDRESS}" in server.asked
    begin, end = reported(server)
    assert (begin[0], end[0], begin[2][2]) == (2, 4, "service=shell")


def reported(server: TacacsServer) -> list[tuple[int, str, list[str]]]:
    """What was reported of tom."""
    return [report for report in server.reports if report[1] == "tom"]


def test_local_users_when_no_server_answers(site: Site) -> None:
    """The local hash decides after one wait; the next login does not wait; nobody is blocked for a dead server."""
    server = RadiusServer({"ann": ("far away", "operator")}, mood="silent")
    with running(server, make=site.make()):
        aaa = Aaa(order=("radius", "local"))
        site.apply(Config(user=(LOCAL, BOTH), aaa=aaa, radius=(radius(server, timeout=Duration(2 * 10**9)),)))
        began = time.monotonic()
        assert site.log_in("rescue", "a local phrase").out.split()[3] == str(group("admin"))
        assert time.monotonic() - began > 2
        assert len(server.asked) == 1
        assert site.log_in("rescue", "a local phrase").status == 0
        assert len(server.asked) == 1, "a server that is dead is left out"
        assert site.log_in("rescue", "wrong").status == 255
        before = len(site.port.blocked)
        site.guess("stranger", "guess", 7)
        wait_until(lambda: sum("user stranger: login" in text for text in site.said()) == 7, "seven failed logins")
        assert len(site.port.blocked) == before, "nobody looked at these passwords"
        server.mood = "good"
        site.call(lambda: setattr(site.service.methods.servers[0], "skip_until", 0.0))
        assert site.log_in("ann", "far away").out.split()[3] == str(group("operator")), "the server's role"
        assert site.log_in("ann", "the local one").status == 255, "who answers decides"
    assert any("rescue: logged in from 127.0.0.1 by password (radius server r1: no answer" in t for t in site.said())
    assert any("aaa radius r1: answers again" in text for text in site.said())


def test_local_first(site: Site) -> None:
    """The servers are asked about users only that the configuration does not have."""
    server = RadiusServer({"ann": ("far away", "admin"), "zoe": ("far away", "viewer")})
    with running(server, make=site.make()):
        site.apply(Config(user=(BOTH,), aaa=Aaa(order=("local", "radius")), radius=(radius(server),)))
        assert site.log_in("ann", "the local one").out.split()[3] == str(group("viewer"))
        assert site.log_in("ann", "far away").status == 255
        assert site.log_in("zoe", "far away").status == 0
    assert [request[1] for request in server.asked] == [[b"zoe"]]


def test_without_bypassd_local_users_get_in(site: Site) -> None:
    """Nobody answers at the door: the hashes decide, and names that are not here do not exist."""
    server = RadiusServer({"zoe": ("far away", "admin")})
    with running(server, make=site.make()):
        site.apply(Config(user=(LOCAL,), aaa=Aaa(order=("radius", "local")), radius=(radius(server),)))
        site.call(site.service.stop)
        assert site.log_in("rescue", "a local phrase").status == 0
        assert site.log_in("rescue", "wrong").status == 255
        assert site.log_in("zoe1", "far away").status == 255
    assert server.asked == []


def test_guesses_are_limited(site: Site) -> None:
    server = RadiusServer({"ann": ("far away", "admin")})
    with running(server, make=site.make()):
        site.apply(Config(user=(LOCAL,), aaa=Aaa(order=("radius", "local")), radius=(radius(server),)))
        site.guess("ann", "guess", 6)
        wait_until(lambda: f"{ADDRESS}/32" in site.port.blocked, "the address is blocked")


def test_off_is_as_before(site: Site) -> None:
    """Without a server in the order the hook is not loaded, and there is no door."""
    site.apply(Config(user=(LOCAL,)))
    assert not (site.root / "run/bypass/access/door").exists()
    assert site.log_in("rescue", "a local phrase").status == 0
    assert site.log_in("ann", "far away").status == 255
