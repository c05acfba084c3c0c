# SPDX-License-Identifier: GPL-2.0-only
"""`setup`: the few questions between a new appliance and one that is looked after; offered once on the serial line.

Host name, management address, administrator's password, guest image, and a look at the segments. Nothing is changed
before the last question, and then all of it in one commit. Every answer can be given again: by `setup`, or by the
`configure` commands that it shows. What the answers change is a pure function (`changes`).
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.config.check.verify_access import interface
from appliance.errors import BypassError, RefusedError
from appliance.paths import Paths
from console.commands.one_commit import Change, apply, running
from console.commands.user_password import ask_password
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.render import cell
from console.session import Context
from console.terminal.prompt import Asker
from console.views.common import prose

IMAGES = Paths().images
START_WAIT = 60.0  # seconds that a starting bypassd is waited for
ADMIN = "admin"
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass
class Answers:
    """What was answered; None = as it is. `password` is a hash already."""

    hostname: str | None = None
    address: str | None = None  # "dhcp", "none" or ADDRESS/PREFIX
    gateway: str | None = None
    password: str | None = None
    image: str | None = None  # a disk image for the first guest


# -- pure


def hostname_trouble(text: str) -> str:
    """Why this is no host name."""
    return "" if _HOSTNAME.fullmatch(text) else "letters, digits and - in the middle, at most 63"


def address_trouble(text: str) -> str:
    """Why this is no management address."""
    return "" if text in ("dhcp", "none") else interface(text, 4)[1]


def gateway_trouble(text: str, address: str) -> str:
    """Why this is no gateway for that address."""
    from ipaddress import ip_address

    own, _ = interface(address, 4)
    try:
        gateway = ip_address(text)
    except ValueError:
        return "" if text == "none" else f'"{text}" is not an IPv4 address, and not "none"'
    if own is None or (gateway in own.network and gateway != own.ip):
        return ""
    return f'"{text}" is not another host of {own.network}'


def changes(now: dict[str, Any], answers: Answers) -> list[Change]:
    """What leads from the running configuration to the answers. Pure; [] when nothing would change."""
    made: list[Change] = []
    management = now.get("management", {})
    if answers.hostname is not None and answers.hostname != now.get("system", {}).get("hostname", "bypass"):
        made.append(Change("set", ("system", "hostname", answers.hostname)))
    if answers.address is not None:
        address = "" if answers.address == "none" else answers.address
        gateway = "" if answers.gateway in (None, "none") or address in ("", "dhcp") else str(answers.gateway)
        for key, value in (("address", address), ("gateway", gateway)):
            if value and value != management.get(key):
                made.append(Change("set", ("management", key, value)))
            elif not value and management.get(key):
                made.append(Change("delete", ("management", key)))
    if answers.password is not None:
        made.append(Change("set", ("user", ADMIN, "role", "admin")))
        made.append(Change("set", ("user", ADMIN, "password", answers.password)))
    guests = now.get("guest", [])
    if answers.image is not None and guests:
        name = str(guests[0]["name"])
        made.append(Change("set", ("guest", name, "image", answers.image)))
        made += [
            Change("delete", ("guest", name, key)) for key in ("kernel", "initrd", "cmdline") if guests[0].get(key)
        ]
    return made


def shown(change: Change) -> str:
    """A change as it would be typed in `configure`; a hash is not shown."""
    words = list(change.words)
    if "password" in words:
        return f"user {words[1]} password"
    return " ".join([change.verb, *words])


def segment_lines(rows: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """One line a segment for a person, and whether every port of every segment has its link."""
    lines, good = [], True
    for row in rows:
        ports = [(cell(row.get(side)), cell(row.get(f"{side}_link"))) for side in ("lan", "wan")]
        linked = all(link == "up" for _, link in ports)
        good = good and linked
        away = f"{cell(row.get('relay')).upper()} ({cell(row.get('cause'))})"
        relay = "inline" if row.get("relay") == "inline" else away
        words = ", ".join(f"{port} link {link}" for port, link in ports)
        lines.append(f"  segment {cell(row.get('name'))}: {words}; relay {relay}")
    return lines or ["  no segment is configured"], good and bool(rows)


# -- asking


class Wizard:
    """One run. `asker` is the person."""

    def __init__(self, context: Context, asker: Asker) -> None:
        self._client, self._asker = context.client, asker

    def run(self) -> str:
        """Ask, show, commit; what to say at the end. RefusedError when nothing was changed."""
        ask = self._asker
        now = running(self._client)
        ask.say("Setup: Return takes the answer in brackets, Ctrl-C leaves everything as it is.")
        answers = Answers()
        host = str(now.get("system", {}).get("hostname", "bypass"))
        answers.hostname = self._until(hostname_trouble, "Host name", host)
        self._address(now.get("management", {}), answers)
        self._password(now.get("user", []), answers)
        self._image(now.get("guest", []), answers)
        self._segments()
        made = changes(now, answers)
        if not made:
            return "Nothing to change."
        ask.say("\nThis will be done (each line is a command that does it again):")
        for change in made:
            ask.say(f"  {shown(change)}")
        if not ask.yes("Do it", True):
            raise RefusedError("nothing was changed")
        ask.say("Working: every part is tried before it counts ...")
        apply(self._client, made, "setup")
        return self._end(answers.password is not None and now.get("management", {}).get("serial_login", True))

    def _until(self, trouble: Callable[[str], str], question: str, default: str) -> str:
        while True:
            answer = self._asker.line(question, default)
            why = trouble(answer)
            if not why:
                return answer
            self._asker.say(f"Not taken: {why}.")

    def _address(self, management: dict[str, Any], answers: Answers) -> None:
        here = str(management.get("address", ""))
        self._asker.say("\nManagement port: ADDRESS/PREFIX such as 192.0.2.10/24, dhcp, or none")
        answers.address = self._until(address_trouble, "Management address", here or "dhcp")
        if answers.address in ("dhcp", "none"):
            return
        old = str(management.get("gateway", "")) or "none"
        address = answers.address
        if gateway_trouble(old, address):
            old = "none"
        answers.gateway = self._until(lambda text: gateway_trouble(text, address), "Gateway, or none", old)

    def _password(self, users: list[dict[str, Any]], answers: Answers) -> None:
        has = any(user.get("name") == ADMIN and user.get("password") for user in users)
        self._asker.say(f"\nSSH is off until somebody can log in. The first administrator is called {ADMIN}.")
        question = f"Set a new password for {ADMIN}" if has else f"Set a password for {ADMIN}"
        if self._asker.yes(question, not has):
            answers.password = ask_password(self._asker, ADMIN, "Password")

    def _image(self, guests: list[dict[str, Any]], answers: Answers) -> None:
        if not guests:
            return
        name = cell(guests[0].get("name"))
        try:
            images = sorted(path.name for path in IMAGES.iterdir() if path.suffix in (".qcow2", ".raw", ".img"))
        except OSError:
            images = []
        now = cell(guests[0].get("image") or guests[0].get("kernel"))
        self._asker.say(f"\nGuest {name} runs {now}.")
        if not images:
            self._asker.say(f"There is no other image yet in {IMAGES}: it stays.")
            return
        for number, image in enumerate(images, 1):
            self._asker.say(f"  {number}  {cell(image)}")
        numbers = [str(number) for number in range(1, len(images) + 1)]

        def trouble(text: str) -> str:
            return "" if text == "keep" or text in numbers else f"a number from 1 to {len(images)}, or keep"

        chosen = self._until(trouble, f"Image for {name}", "keep")
        if chosen != "keep":
            answers.image = images[int(chosen) - 1]

    def _segments(self) -> None:
        """Show where the cables stand; again as often as wanted."""
        while True:
            rows = self._client.call("segments.show")
            lines, good = segment_lines(rows if isinstance(rows, list) else [])
            self._asker.say("\nSegments:\n" + "\n".join(lines))
            if good or not self._asker.yes("A link is missing. Plug in the cable; look again", False):
                return

    def _end(self, password: bool) -> str:
        said = ["Done. `setup` asks again; `configure` has everything else."]
        if password:
            said.append(f"From the next session on this serial line asks for a login, too ({ADMIN} and the password).")
        try:
            state = self._client.call("management.show")
        except BypassError as error:
            return "\n".join([*said, f"management port: {error}"])
        ssh = state.get("ssh", {})
        addresses = [str(address).partition("/")[0] for address in state.get("addresses", [])]
        if ssh.get("state") == "listening":
            where = addresses[0] if addresses else "ADDRESS (show management, when the DHCP server has answered)"
            said.append(f"Log in with: ssh {ADMIN}@{where}")
            said.append("Compare the host key that your client shows:")
            said += [f"  {cell(key.get('kind'))} {cell(key.get('fingerprint'))}" for key in ssh.get("host_keys", [])]
        else:
            said.append(f"SSH is off: {cell(ssh.get('detail'))}")
        return "\n".join(said)


def setup(_: Parsed, context: Context) -> Outcome:
    """`setup`."""
    asker = Asker(style=context.style)
    if not asker.terminal:
        raise RefusedError("setup asks questions, and there is no terminal; `configure` takes commands from a script")
    try:
        said = Wizard(context, asker).run()
    except (KeyboardInterrupt, EOFError):
        raise RefusedError("setup was left; nothing was changed") from None
    return Outcome([line for text in said.splitlines() for line in prose(text, context.style)], "lines")


def offer(context: Context, offered: Path) -> None:
    """On the serial line of a new appliance, once; `offered` notes it. Never in the shell's way: Ctrl-C leads there."""
    asker = Asker()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        now = _started(context, asker)
        if now is None:
            return  # at the next session
        if not now.get("user") and not now.get("management", {}).get("address"):
            asker.say("\nThis appliance is new: it has no management address, and nobody can log in over SSH.")
            wanted = asker.line("Type setup to change that now, or Return for the shell")
            if wanted.lower() in ("setup", "s", "y", "yes"):
                asker.say(Wizard(context, asker).run())
        offered.touch()
    except (KeyboardInterrupt, EOFError):
        asker.say("\nSetup was left; nothing was changed. The command `setup` starts it again.")
    except (BypassError, OSError) as error:
        asker.say(f"error: {cell(error)}\nThe command `setup` starts it again.")
    finally:
        signal.signal(signal.SIGINT, before)


def _started(context: Context, asker: Asker) -> dict[str, Any] | None:
    """The running configuration, as soon as bypassd answers; None when it does not within START_WAIT."""
    until, said = time.monotonic() + START_WAIT, False
    while True:
        try:
            return running(context.client)
        except BypassError:
            if time.monotonic() > until:
                return None
            if not said:
                asker.say("The appliance is starting (Ctrl-C: the shell at once) ...")
                said = True
            time.sleep(0.5)  # nothing tells when the socket is there
