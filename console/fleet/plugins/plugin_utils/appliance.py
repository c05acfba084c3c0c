# SPDX-License-Identifier: GPL-2.0-or-later
"""What the modules ask of an appliance, through its shell over SSH. Knows nothing of Ansible.

The appliance offers no Python and no files to Ansible; its login shell takes one command and standard input. `api`
answers JSON-RPC. changes.py changes the configuration.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, Protocol

FACTS: Final = {
    "version": "version.show",
    "status": "status.show",
    "system": "system.show",
    "segments": "segments.show",
    "relays": "relays.show",
    "ports": "ports.show",
    "guests": "guests.show",
    "remotes": "remotes.show",
    "commits": "config.status",
}


class UnreachableError(Exception):
    """SSH did not get through; the text is one sentence."""


class RefusedError(Exception):
    """The appliance refused, or is none; the text is one sentence."""


class Reply(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: bytes
    err: bytes


class Link(Protocol):
    """The SSH connection to an appliance."""

    def run(self, command: str, stdin: bytes) -> Reply:
        """Run a command of the shell. UnreachableError: SSH failed."""

    def renew(self) -> None:
        """The next command uses a new connection."""


def reason(reply: Reply) -> str:
    """Why the shell refused, in one sentence: its first error, and how many more there are."""
    said = reply.err.decode(errors="replace").splitlines()
    errors = [
        text
        for line in said
        for head, _, text in [line.partition(": ")]
        if head in ("error", "usage", "internal error")
    ]
    own = [text for text in errors if "uncommitted changes discarded" not in text]
    if not own:
        return (said or [f"the appliance's shell ended with exit code {reply.code} and gave no reason"])[0]
    return own[0] + (f" (and {len(own) - 1} more)" if len(own) > 1 else "")


def _decoded(link: Link, command: str, stdin: str) -> Any:
    reply = link.run(command, stdin.encode())
    try:
        return json.loads(reply.out)
    except ValueError as error:
        if reply.code == 0:
            shown = " ".join(reply.out.decode(errors="replace").split())[:60]
            raise RefusedError(f'no Throughwire appliance: `{command}` was answered by "{shown}"') from error
        raise RefusedError(reason(reply)) from error


def ask(link: Link, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers to JSON-RPC requests, in their order: each has `result` or `error`."""
    answers = _decoded(link, "api", json.dumps([{"id": number, **one} for number, one in enumerate(requests)]))
    if not isinstance(answers, list) or len(answers) != len(requests):
        raise RefusedError("no Throughwire appliance: `api` did not answer every request")
    return sorted(answers, key=lambda one: int(one["id"]))


def result_of(answer: dict[str, Any]) -> Any:
    """The result in an answer. RefusedError: it has an error."""
    if "error" in answer:
        raise RefusedError(str(answer["error"].get("message")))
    return answer["result"]


def facts(link: Link) -> tuple[dict[str, Any], list[str]]:
    """The facts by name, and why some are missing; `configuration` is the running one, secrets hidden."""
    wanted = [{"method": method} for method in FACTS.values()]
    shown = {"method": "config.show", "params": {"of": "running", "format": "json"}}
    answers = ask(link, *wanted, shown)
    found, missing = {}, []
    for name, answer in zip([*FACTS, "configuration"], answers, strict=True):
        if "error" in answer:
            missing.append(f"{name}: {answer['error'].get('message')}")
        else:
            found[name] = answer["result"]["data"] if name == "configuration" else answer["result"]
    if not found:
        raise RefusedError(missing[0])
    return found, missing


def backup(link: Link, passphrase: str) -> bytes:
    """An encrypted backup of configuration and SSH host keys."""
    if "\n" in passphrase or not passphrase:
        raise RefusedError("the passphrase of a backup is one line")
    reply = link.run("backup -", f"{passphrase}\n".encode())
    if reply.code or not reply.out:
        raise RefusedError(reason(reply))
    return reply.out
