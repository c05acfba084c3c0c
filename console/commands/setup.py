# SPDX-License-Identifier: GPL-2.0-only
"""`setup`: the first questions for a new appliance; offered on the console until it was done or declined.

Host name, management address, name servers, time, administrator's password, guest image, and a check of the segments'
links. Nothing is changed before the last question; then everything is changed in one commit, and after it the clock.
`setup` may be run again at any time, and shows the `configure` commands that do the same. What the answers mean is in
setup_answers.py.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from appliance.errors import BypassError, RefusedError
from appliance.paths import Paths
from console.commands.one_commit import apply, running
from console.commands.questions import Questions
from console.commands.setup_answers import (
    ADMIN,
    Answers,
    address_trouble,
    changes,
    gateway_trouble,
    hostname_trouble,
    segment_lines,
    shown,
)
from console.commands.setup_time import local, set_clock, steps
from console.commands.user_password import ask_password
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.render import cell
from console.session import Context
from console.terminal.prompt import Asker
from console.tty import style_of
from console.views.common import prose

IMAGES = Paths().images
START_WAIT = 60.0  # seconds to wait for bypassd while it starts


class Wizard:
    """One run. `asker` asks the user, who may answer ? (what is asked, and why) and < (the question before)."""

    def __init__(self, context: Context, asker: Asker) -> None:
        self._client, self._asker, self._questions = context.client, asker, Questions(asker)

    def run(self) -> str:
        """Ask, show, commit; returns the closing message. RefusedError if nothing was changed."""
        ask = self._asker
        now = running(self._client)
        ask.say(
            "Setup: press Enter to accept the value in brackets, ? for an explanation, < to go back, Ctrl-C to cancel"
            " without changes."
        )
        answers = Answers()
        self._questions.run(
            [
                lambda: self._hostname(now.get("system", {}), answers),
                lambda: self._address(now.get("management", {}), answers),
                lambda: self._gateway(now.get("management", {}), answers),
                *steps(now, answers, self._questions),
                lambda: self._password(now.get("user", []), answers),
                lambda: self._image(now.get("guest", []), answers),
            ]
        )
        self._segments()
        made = changes(now, answers)
        if not made and answers.ahead is None:
            return "No changes."
        ask.say("\nSetup will make these changes (each line is also a command of the shell):")
        for change in made:
            ask.say(f"  {shown(change)}")
        if answers.ahead is not None:
            ask.say(f"  clock set {local(answers) + answers.ahead:%Y-%m-%d %H:%M:%S}")
        if not ask.yes("Apply these changes?", True):
            raise RefusedError("setup cancelled; nothing was changed")
        ask.say("Validating and applying ...")
        if made:
            apply(self._client, made, "setup")
        clock = set_clock(self._client, answers)
        end = self._end(answers.password is not None and now.get("management", {}).get("serial_login", True))
        return f"{clock}\n{end}" if clock else end

    def _hostname(self, system: dict[str, Any], answers: Answers) -> None:
        host = str(system.get("hostname", "bypass"))
        about = "The appliance's name in prompts, logs, and in what it asks a DHCP server."
        answers.hostname = self._questions.until(hostname_trouble, "Host name", host, about)

    def _address(self, management: dict[str, Any], answers: Answers) -> None:
        here = str(management.get("address", ""))
        self._asker.say("\nManagement port: an ADDRESS/PREFIX such as 192.0.2.10/24, dhcp, or none")
        about = (
            "SSH, metrics and logs use the management port, which is apart from the link that the appliance sits in."
            " Give it a fixed address with its prefix length, dhcp to get one from a server, or none to switch it off."
        )
        answers.address = self._questions.until(address_trouble, "Management address", here or "dhcp", about)

    def _gateway(self, management: dict[str, Any], answers: Answers) -> None:
        answers.gateway = None
        if answers.address in (None, "dhcp", "none"):
            return
        old = str(management.get("gateway", "")) or "none"
        address = str(answers.address)
        if gateway_trouble(old, address):
            old = "none"
        about = f"The router by which the appliance answers hosts outside of the network of {address}."
        answers.gateway = self._questions.until(
            lambda text: gateway_trouble(text, address), "Gateway, or none", old, about
        )

    def _password(self, users: list[dict[str, Any]], answers: Answers) -> None:
        has = any(user.get("name") == ADMIN and user.get("password") for user in users)
        self._asker.say(
            f"\nSSH is off until a user has a password or a key. The first administrator is called {ADMIN}."
        )
        question = f"Set a new password for {ADMIN}?" if has else f"Set a password for {ADMIN}?"
        about = (
            f"With it {ADMIN} logs in over SSH; the console (serial line) asks for it too from then on. Without any"
            " password or key nobody gets in over SSH, and the console is open to whoever is there."
        )
        answers.password = None
        if self._questions.yes(question, not has, about):
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
            self._asker.say("No other image available; keeping the current one (`guest import` adds images).")
            return
        for number, image in enumerate(images, 1):
            self._asker.say(f"  {number}  {cell(image)}")
        numbers = [str(number) for number in range(1, len(images) + 1)]

        def trouble(text: str) -> str:
            return "" if text == "keep" or text in numbers else f"enter a number from 1 to {len(images)}, or keep"

        about = "The disk that the guest boots from, and with it the application that inspects the traffic."
        chosen = self._questions.until(trouble, f"Image for {name}", "keep", about)
        answers.image = images[int(chosen) - 1] if chosen != "keep" else None

    def _segments(self) -> None:
        """Show the links of the segments, repeatedly if the user asks for it."""
        while True:
            rows = self._client.call("segments.show")
            lines, good = segment_lines(rows if isinstance(rows, list) else [])
            self._asker.say("\nSegments:\n" + "\n".join(lines))
            if good or not self._asker.yes("A link is missing: connect the cable. Check again?", False):
                return

    def _end(self, password: bool) -> str:
        said = ["Done. Run `setup` again at any time, or `configure` for all settings."]
        if password:
            said.append(f"From the next session on, the console also asks for a login ({ADMIN} and the password).")
        try:
            state = self._client.call("management.show")
        except BypassError as error:
            return "\n".join([*said, f"management port: {error}"])
        ssh = state.get("ssh", {})
        addresses = [str(address).partition("/")[0] for address in state.get("addresses", [])]
        if ssh.get("state") == "listening":
            where = addresses[0] if addresses else "ADDRESS"
            said.append(f"Log in with: ssh {ADMIN}@{where}")
            if not addresses:
                said.append("`show management` shows the ADDRESS once the DHCP server has assigned one.")
            said.append("Compare the host key that your client shows with:")
            said += [f"  {cell(key.get('kind'))} {cell(key.get('fingerprint'))}" for key in ssh.get("host_keys", [])]
        else:
            said.append(f"SSH is off: {cell(ssh.get('detail'))}")
        return "\n".join(said)


def setup(_: Parsed, context: Context) -> Outcome:
    """`setup`."""
    style = context.style if context.terminal is not None else style_of(sys.stderr)
    asker = Asker(style=style)
    if not asker.terminal:
        raise RefusedError("setup requires a terminal; in scripts use `configure`")
    try:
        said = Wizard(context, asker).run()
    except (KeyboardInterrupt, EOFError):
        asker.say()  # the terminal has echoed ^C behind the question
        raise RefusedError("setup cancelled; nothing was changed") from None
    return Outcome([line for text in said.splitlines() for line in prose(text, style)], "lines")


def offer(context: Context, offered: Path) -> None:
    """Offer setup on the console of a new appliance until it was done or declined, which `offered` records.

    Ctrl-C leads to the shell, as Enter does.
    """
    asker = Asker()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        now = _started(context, asker)
        if now is None:
            return  # it is offered again in the next session
        if not now.get("user") and not now.get("management", {}).get("address"):
            asker.say("\nThis appliance is not set up: it has no management address, and no user can log in over SSH.")
            asker.say("Type `setup` to set it up now, `no` to be asked no more, or press Enter for the shell.")
            wanted = asker.line("setup, no or Enter").lower()
            if wanted in ("setup", "s", "y", "yes"):
                asker.say(Wizard(context, asker).run())
            elif wanted not in ("no", "n"):
                return
        offered.touch()
    except (KeyboardInterrupt, EOFError):
        asker.say("\nSetup cancelled; nothing was changed. Run `setup` at any time.")
    except (BypassError, OSError) as error:
        asker.say(f"error: {cell(error)}\nRun `setup` to try again.")
    finally:
        signal.signal(signal.SIGINT, before)


def _started(context: Context, asker: Asker) -> dict[str, Any] | None:
    """The running configuration as soon as bypassd answers; None if it does not within START_WAIT."""
    until, said = time.monotonic() + START_WAIT, False
    while True:
        try:
            return running(context.client)
        except BypassError:
            if time.monotonic() > until:
                return None
            if not said:
                asker.say("The appliance is starting (Ctrl-C for the shell) ...")
                said = True
            time.sleep(0.5)  # no event reports that the socket exists
