#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The guest agent in Python: one file, standard library only, Python 3.7 or newer. The protocol is in README.md.

    throughwire_agent.py [--port PORT] [--interval S] [--status CMD] [--accept FILTER] [--checks DIR] [--socket PATH]
    throughwire_agent.py [--socket PATH] accept [FILTER] | takes NAME... | drain on|off | bypass on|off [WHY]
                                         | tags on|off | shunt tcp|udp LAN:PORT WAN:PORT [SECONDS]
                                         | unshunt tcp|udp LAN:PORT WAN:PORT

The first form runs as the agent; the second sends an order to the running agent and prints the host's answer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Callable  # noqa: UP035 (collections.abc's has no parameters before Python 3.9)

PORT = "/dev/virtio-ports/org.throughwire.agent.0"
SOCKET = "/run/throughwire-agent.sock"
CHECKS = "/etc/throughwire/checks"
LINE_BYTES = 4096
CHECK_SECONDS = 10
ANSWER_SECONDS = 10
HELLO = {
    "type": "hello",
    "version": 1,
    "agent": "throughwire_agent.py",
    "capabilities": ["accept", "drain", "bypass", "tags", "shunt", "check"],
}

Message = Any  # an object of the protocol: a dict
Done = Callable[[str], None]


class Agent:
    """One port to the host, one socket for orders from inside the guest."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.interval = options.interval or 1.0
        self.port = os.open(options.port, os.O_RDWR | os.O_NONBLOCK)
        self.rest = b""
        self.unsent = b""
        self.number = 0
        self.asking: dict[int, str | None] = {}  # number of a request -> the client that waits for its answer
        # a running check or status command -> its time limit, what to do when it ends, its output so far
        self.work: dict[subprocess.Popen[bytes], tuple[float, Done, list[bytes]]] = {}
        self.standing: dict[str, Message] = {}  # what to repeat to a host that connects later
        self.said = "ok"
        self.next_beat = self.next_read = 0.0
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if os.path.exists(options.socket):
            os.unlink(options.socket)
        old = os.umask(0o177)
        try:
            self.server.bind(options.socket)
        finally:
            os.umask(old)

    # -- to the host

    def say(self, message: Message) -> None:
        """Send a line. What does not fit is queued; heartbeats that would be queued are dropped."""
        if self.unsent and message["type"] == "heartbeat":
            return
        self.unsent += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.port, self.unsent) :]
        except OSError:  # full, or no host is connected
            if len(self.unsent) > 16 * LINE_BYTES:
                self.unsent = b""

    def ask(self, message: Message, asker: str | None = None) -> None:
        self.number += 1
        self.asking[self.number] = asker
        self.say(dict(message, id=self.number))

    def introduce(self) -> None:
        """Send our state whenever a host connects: it may be a new one that knows nothing about us."""
        self.ask(HELLO)
        if self.options.accept and "accept" not in self.standing:
            self.ask({"type": "accept", "filter": self.options.accept})
        for message in self.standing.values():
            self.ask(message)

    # -- from the host

    def listen(self) -> None:
        try:
            data = os.read(self.port, LINE_BYTES)
        except BlockingIOError:
            return
        if not data:  # no host is connected; there is no event for its arrival
            self.next_read = time.monotonic() + 0.5
            return
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()[-LINE_BYTES:]
        for line in lines:
            try:
                message = json.loads(line.decode())
            except ValueError:
                continue
            if isinstance(message, dict):
                self.obey(message)

    def obey(self, message: Message) -> None:
        kind = message.get("type")
        if kind == "hello":
            self.introduce()
        elif kind == "check":
            self.check(message.get("id"), str(message.get("command")))
        elif kind == "answer":
            self.answered(message)
        elif kind == "shutdown":
            subprocess.Popen(["poweroff"])

    def answered(self, message: Message) -> None:
        if message.get("to") == "hello" and not self.options.interval and message.get("heartbeat_ms"):
            self.interval = message["heartbeat_ms"] / 1000
        if not message.get("ok"):
            print(f"throughwire-agent: {message.get('to')} is refused: {message.get('why')}", file=sys.stderr)
        asker = self.asking.pop(message.get("id") or 0, None)
        if asker:
            try:
                self.server.sendto(json.dumps(message).encode(), asker)
            except OSError:
                pass  # it did not wait for the answer

    def check(self, number: Any, name: str) -> None:
        """Run the program of this name in the folder of checks; nothing else can be run."""
        path = os.path.join(self.options.checks, name)
        if not re.match(r"[A-Za-z0-9_][A-Za-z0-9_.-]*$", name) or not os.access(path, os.X_OK):
            self.say({"type": "result", "id": number, "status": "there is no such check"})
            return

        def done(status: str) -> None:
            self.say({"type": "result", "id": number, "status": status[:200]})

        self.start([path], done)

    # -- programs that report the application's state; none of them blocks the agent

    def start(self, command: list[str], done: Done) -> None:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError as error:
            done(f"cannot be run: {error.strerror}")
            return
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.work[process] = (time.monotonic() + CHECK_SECONDS, done, [b""])

    def reap(self) -> None:
        for process, (limit, done, said) in list(self.work.items()):
            assert process.stdout is not None
            try:
                said[0] = (said[0] + (process.stdout.read() or b""))[:LINE_BYTES]
            except OSError:
                pass
            code = process.poll()
            late = code is None and time.monotonic() > limit
            if code is None and not late:
                continue
            if late:
                process.kill()
                process.wait()
            process.stdout.close()
            del self.work[process]
            words = said[0].decode(errors="replace").strip().splitlines()
            done(f"did not end within {CHECK_SECONDS} s" if late else "ok" if code == 0 else (words or ["failed"])[0])

    def beat(self) -> None:
        self.say({"type": "heartbeat", "status": self.said[:64] or "failed"})
        busy = any(done == self.told for _, done, _ in self.work.values())
        if self.options.status and not busy:
            self.start(["sh", "-c", self.options.status], self.told)

    def told(self, status: str) -> None:
        self.said = status

    # -- orders from inside the guest

    def order(self) -> None:
        data, asker = self.server.recvfrom(LINE_BYTES)
        try:
            message = json.loads(data.decode())
        except ValueError:
            return
        if message.get("type") != "shunt":  # the host keeps shunts
            self.standing[message.get("type")] = message
        self.ask(message, asker)

    def run(self) -> None:
        self.introduce()
        selector = selectors.DefaultSelector()
        selector.register(self.server, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if now >= self.next_beat:
                self.next_beat = now + self.interval
                self.beat()
            self.reap()
            self.flush()
            listening = now >= self.next_read
            if listening:
                selector.register(self.port, selectors.EVENT_READ)
            wait = min(self.next_beat - now, 0.05 if self.work or self.unsent or not listening else 1.0)
            for key, _ in selector.select(max(wait, 0)):
                if key.fd == self.port:
                    self.listen()
                else:
                    self.order()
            if listening:
                selector.unregister(self.port)


def shunt(words: Any, on: bool) -> Message:
    """The order for a flow: protocol, end at the LAN, end at the WAN, and for how many seconds."""
    message: Message = {"type": "shunt", "protocol": words[0], "on": on}
    try:
        for side, end in (("lan", words[1]), ("wan", words[2])):
            address, _, port = end.rpartition(":")
            message[side], message[side + "_port"] = address.strip("[]"), int(port)
        if len(words) == 4:
            message["time_s"] = float(words[3])
    except ValueError:
        sys.exit(__doc__)
    return message


def tell(options: argparse.Namespace) -> int:
    """Send an order to the running agent and print the host's answer; returns 0 if it was granted."""
    words = options.order
    kind, rest = words[0], words[1:]
    if kind == "accept":
        message = {"type": "accept", "filter": " ".join(rest) or None}
    elif kind == "takes" and rest:
        message = {"type": "accept", "names": rest}
    elif kind in ("drain", "bypass", "tags") and rest and rest[0] in ("on", "off"):
        message = {"type": kind, "on": rest[0] == "on"}
        if kind == "bypass":
            message["why"] = " ".join(rest[1:])[:200]
    elif kind in ("shunt", "unshunt") and len(rest) in (3, 4):
        message = shunt(rest, kind == "shunt")
    else:
        sys.exit(__doc__)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # a name of its own, for the answer
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.sendto(json.dumps(message).encode(), options.socket)
            answer = json.loads(sock.recv(LINE_BYTES).decode())
        except socket.timeout:  # noqa: UP041 (another class before Python 3.10)
            sys.exit("throughwire-agent: the host does not answer")
        except OSError as error:
            sys.exit(f"throughwire-agent: {options.socket}: {error.strerror}: is the agent running?")
    print(json.dumps(answer))
    return 0 if answer.get("ok") else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", default=PORT, help="the virtio-serial port")
    parser.add_argument(
        "--interval", type=float, default=0.0, help="seconds between heartbeats; 0: as the host requests"
    )
    parser.add_argument("--status", default="", help="shell command: exit status 0 means that the application works")
    parser.add_argument("--accept", default="", help="pcap filter of the frames that the application can process")
    parser.add_argument("--checks", default=CHECKS, help="folder of the programs that the host may run")
    parser.add_argument("--socket", default=SOCKET, help="socket for orders from inside the guest")
    parser.add_argument("order", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.order:
        return tell(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        agent = Agent(options)
    except OSError as error:
        sys.exit(f"throughwire-agent: {error}")
    try:
        agent.run()
    finally:
        os.unlink(options.socket)
    return 0


if __name__ == "__main__":
    sys.exit(main())
