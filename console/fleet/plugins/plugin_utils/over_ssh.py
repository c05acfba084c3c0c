# SPDX-License-Identifier: GPL-2.0-or-later
"""The base of the collection's actions: they run on the controller and use Ansible's own `ssh` connection.

Nothing is copied to the appliance and no Python is looked for there: a command of the appliance's shell is the command
of an SSH session, its input is standard input. Inventory variables of the connection mean what they always mean.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from .appliance import RefusedError, Reply, UnreachableError

# A connection that the change itself breaks is noticed after 15 s; a command is never repeated behind our back.
KEEPALIVE = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"


class SshLink:
    """An appliance behind a connection of Ansible."""

    def __init__(self, connection: Any) -> None:
        if connection.transport != "ssh":
            raise RefusedError(f"ansible_connection is {connection.transport}: an appliance is reached by ssh only")
        self._connection = connection
        extra = connection.get_option("ssh_extra_args") or ""
        connection.set_option("ssh_extra_args", f"{extra} {KEEPALIVE}".strip())
        connection.set_option("reconnection_retries", 0)

    def run(self, command: str, stdin: bytes) -> Reply:
        """See Link."""
        try:
            code, out, err = self._connection.exec_command(command, in_data=stdin, sudoable=False)
        except AnsibleConnectionFailure as error:
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UnreachableError(said[-1].rpartition("ssh: ")[2] if said else "SSH failed") from error
        return Reply(code, out, err)

    def renew(self) -> None:
        """See Link: ends the sharing of the connection that ControlPersist keeps."""
        self._connection.reset()


class ApplianceAction(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """An action on an appliance. A subclass has its arguments in SPEC, and `work`, which returns the task's result."""

    TRANSFERS_FILES = False
    SPEC: ClassVar[dict[str, Any]] = {}
    RULES: ClassVar[dict[str, Any]] = {}

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The task's result; what the appliance refuses is `msg`."""
        result: dict[str, Any] = super().run(None, task_vars)
        _, given = self.validate_argument_spec(self.SPEC, **self.RULES)
        try:
            result.update(self.work(SshLink(self._connection), given))
        except RefusedError as error:
            result.update(failed=True, changed=False, msg=str(error))
        except UnreachableError as error:
            raise AnsibleConnectionFailure(str(error)) from error
        return result

    @abstractmethod
    def work(self, link: SshLink, given: dict[str, Any]) -> dict[str, Any]:
        """What the task does, with arguments as SPEC has them. RefusedError, UnreachableError: it failed, and why."""
