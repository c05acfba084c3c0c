# SPDX-License-Identifier: GPL-2.0-only
"""JSON-RPC 2.0 without the socket: registry of methods, check of parameters and roles, errors and their codes.

Pure, except for the handlers that it calls; server.py moves the bytes.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

import appliance
from appliance.api.schema import methods
from appliance.api.schema.methods import Answers
from appliance.api.schema.state import Version
from appliance.errors import (
    BypassError,
    ConfigError,
    DatapathError,
    FilterError,
    GuestError,
    HardwareError,
    NotFoundError,
    ProtocolError,
    RefusedError,
    UnreachableError,
)
from appliance.transition import IllegalMoveError

ROLES: Final = ("viewer", "operator", "admin")  # each includes those before it

T = TypeVar("T")
Params = dict[str, Any]
Handler = Callable[[Params], Awaitable[object]]

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
NO_METHOD: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL: Final = -32603
FORBIDDEN: Final = -32001
BUSY: Final = -32002
PROTOCOL_ERRORS: Final = {
    PARSE_ERROR: "not JSON",
    INVALID_REQUEST: "not a JSON-RPC 2.0 request, or a batch or line that is too long",
    NO_METHOD: "no such method at the moment: the part that offers it may not be up",
    INVALID_PARAMS: "a parameter is missing, unknown, or of the wrong type",
    INTERNAL: "a bug in bypassd; the system log has the details",
    FORBIDDEN: "the caller does not have the role that the method requires",
    BUSY: "too many clients, or too long answers to one batch; try again later",
}
ERRORS: Final[dict[type[BypassError], tuple[int, str]]] = {  # class -> (code, hint for a person)
    ConfigError: (-32010, "`bypass check FILE` shows all errors"),
    FilterError: (-32011, "pcap-filter(7) describes the filter language"),
    HardwareError: (-32012, "compare board.toml with the hardware; `bypass show status` says what is missing"),
    DatapathError: (-32013, "traffic is bypassed meanwhile; the system log has the kernel's message"),
    GuestError: (-32014, "`bypass show guests` shows state and cause of each guest"),
    NotFoundError: (-32015, ""),
    RefusedError: (-32016, ""),
    ProtocolError: (-32017, ""),
    UnreachableError: (-32018, "`bypass show status` and `bypass show management` say what does not answer"),
    BypassError: (-32019, ""),
}

LATE_S: Final = 4.0
"""How long a request waits for a part that is starting; less than clients wait for an answer."""
LOOK_S: Final = 0.05
STARTING: Final = "Starting"  # the kind of that refusal, so that a client may repeat the request

log = logging.getLogger(__name__)


class Caller(NamedTuple):
    """The client's user and process, as reported by the kernel."""

    uid: int
    pid: int
    role: str
    user: str = ""


_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


def caller() -> Caller:
    """Inside a handler: who called it."""
    return _caller.get()


class RpcError(Exception):
    """A refusal by the protocol itself: no such method, wrong parameters, permission denied."""

    def __init__(self, code: int, message: str, hint: str = "", kind: str = "") -> None:
        self.code, self.hint, self.kind = code, hint, kind
        super().__init__(message)


class Param(NamedTuple):
    """One parameter of a method."""

    type: str = "string"  # string, integer, boolean or array (of strings)
    doc: str = ""
    required: bool = True
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: object) -> None:
        """RpcError unless `value` has this type."""
        kind = {"string": str, "integer": int, "boolean": bool, "array": list}[self.type]
        good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if good and isinstance(value, list):
            good = all(isinstance(item, str) for item in value)
        if not good:
            raise RpcError(INVALID_PARAMS, f"{name} must be of type {self.type}")
        if self.choices and value not in self.choices:
            raise RpcError(INVALID_PARAMS, f"{name} must be one of {', '.join(self.choices)}")

    def schema(self) -> dict[str, object]:
        """The parameter as JSON Schema."""
        out: dict[str, object] = {"type": self.type, "description": self.doc}
        if self.type == "array":
            out["items"] = {"type": "string"}
        if self.choices:
            out["enum"] = list(self.choices)
        return out


@dataclass(frozen=True)
class Method:
    """One row of the registry."""

    answers: Answers[Any]
    handler: Handler
    role: str
    doc: str
    params: dict[str, Param]

    @property
    def name(self) -> str:
        """The method's name for clients."""
        return self.answers.name

    def check(self, params: Params) -> None:
        """RpcError unless `params` match the method's parameters."""
        for name in params:
            if name not in self.params:
                takes = ", ".join(self.params) or "none"
                raise RpcError(INVALID_PARAMS, f'unknown parameter "{name[:60]}"; {self.name} takes: {takes}')
        for name, param in self.params.items():
            if name in params:
                param.check(name, params[name])
            elif param.required:
                raise RpcError(INVALID_PARAMS, f"parameter {name} is missing")


class Registry:
    """All methods by name. The parts fill it at start; it lives as long as bypassd.

    The socket is served before the parts are up, and the link is inline before those that no frame needs: a request for
    a method that is still to come waits for it (`LATE_S`), because to whoever asks, bypassd is running.
    """

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self.coming: Callable[[], bool] = lambda: False
        """Whether a part that may register methods is still starting. Set by whoever starts them."""
        doc = "every method with its role, parameters, answer and errors, and what the events of each topic carry"
        self.add(methods.API_SCHEMA, self._schema, doc=doc)

    def add(
        self,
        answers: Answers[T],
        handler: Callable[[Params], Awaitable[T]],
        role: str = "viewer",
        doc: str = "",
        params: dict[str, Param] | None = None,
    ) -> None:
        """Register a method, which answers with the type that the schema publishes for it.

        One of the same name is replaced: a part that restarts registers again.
        """
        if role not in ROLES:
            raise ValueError(f"{answers.name}: no role {role!r}")
        self._methods[answers.name] = Method(answers, handler, role, doc, params or {})

    def names(self) -> list[str]:
        """All methods, sorted."""
        return sorted(self._methods)

    async def call(self, name: str, params: Params, who: Caller, *, late: bool = True) -> object:
        """Run a method for `who`. RpcError or BypassError when it is refused or fails.

        `late`: wait for a method whose part is still starting.
        """
        if late and name in methods.METHODS:
            await self._wait(lambda: name in self._methods)
        method = self._methods.get(name)
        if method is None and name in methods.METHODS:
            if self.coming():
                raise RpcError(NO_METHOD, f"{name}: the part that offers it is starting", "try again", STARTING)
            raise RpcError(NO_METHOD, f"{name}: the part that offers it is not up", "`bypass show status` says why")
        if method is None:
            raise RpcError(NO_METHOD, f'no method "{name[:60]}"', "`bypass api schema` lists the methods")
        if ROLES.index(who.role) < ROLES.index(method.role):
            raise RpcError(FORBIDDEN, f"permission denied: {name} requires role {method.role}; yours is {who.role}")
        method.check(params)
        _caller.set(who)
        if (task := asyncio.current_task()) is not None:
            task.set_name(
                f"request {name}"
            )  # the name under which a stall of the event loop is logged (system/loop_watch.py)
        return await method.handler(params)

    async def _wait(self, until: Callable[[], bool]) -> None:
        """Wait while a part is starting, but not for long."""
        ends = time.monotonic() + LATE_S
        while not until() and self.coming() and time.monotonic() < ends:
            await asyncio.sleep(LOOK_S)

    async def _schema(self, _: Params) -> dict[str, Any]:
        await self._wait(lambda: False)  # for all of them
        # in a thread: it is the longest of all answers, and leases must be renewed meanwhile
        results, events, defined = await asyncio.to_thread(methods.published)
        offered = [
            {
                "name": method.name,
                "doc": method.doc,
                "role": method.role,
                "params": {
                    "type": "object",
                    "properties": {name: param.schema() for name, param in method.params.items()},
                    "required": [name for name, param in method.params.items() if param.required],
                    "additionalProperties": False,
                },
                "result": results.get(method.name, {}),
                "errors": [kind.__name__ for kind in method.answers.errors],
            }
            for _, method in sorted(self._methods.items())
        ]
        return {
            "jsonrpc": "2.0",
            "version": appliance.__version__,
            "methods": offered,
            "events": [{"topic": topic, "data": schema} for topic, schema in events.items()],
            "errors": [{"code": code, "kind": kind.__name__} for kind, (code, _) in ERRORS.items()]
            + [{"code": code, "doc": doc} for code, doc in PROTOCOL_ERRORS.items()],
            "$defs": defined,
        }


def add_version(registry: Registry) -> None:
    """Register version.show: the running versions of the appliance, Python and the kernel."""

    async def version(_: Params) -> Version:
        import platform

        system = os.uname()
        return Version(
            version=appliance.__version__,
            kernel=f"{system.sysname} {system.release}",
            machine=system.machine,
            python=platform.python_version(),
        )

    registry.add(methods.VERSION_SHOW, version, doc="versions of the appliance, Python and the kernel")


def encode(message: object) -> bytes:
    """One line of JSON. Values that JSON has no type for (a Duration, a Path) are sent as text."""
    return msgspec.json.encode(message, enc_hook=str) + b"\n"


def error(request_id: object, code: int, message: str, hint: str = "", kind: str = "") -> dict[str, object]:
    """An error response."""
    data = {key: value for key, value in (("kind", kind), ("hint", hint)) if value}
    body: dict[str, object] = {"code": code, "message": message}
    if data:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


async def answer(registry: Registry, request: object, who: Caller, *, late: bool = True) -> dict[str, object] | None:
    """Run one decoded request; the response, or None for a notification. `late` as in `Registry.call`.

    Raises nothing but CancelledError, and IllegalMoveError, after which bypassd must end.
    """
    if not isinstance(request, dict):
        return error(None, INVALID_REQUEST, "a request is a JSON object")
    request_id, name, params = request.get("id"), request.get("method"), request.get("params", {})
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | float | None):
        return error(None, INVALID_REQUEST, "id must be a string or a number")
    if request.get("jsonrpc") != "2.0" or not isinstance(name, str):
        return error(request_id, INVALID_REQUEST, 'a request needs "jsonrpc": "2.0" and a method')
    try:
        if not isinstance(params, dict):
            raise RpcError(INVALID_PARAMS, "params are given by name, as an object")
        result = await registry.call(name, params, who, late=late)
        # Encoded here, once: a result that is no JSON is a bug of this method and must not end the connection.
        encoded = msgspec.Raw(msgspec.json.encode(result, enc_hook=str))
        response: dict[str, object] = {"jsonrpc": "2.0", "id": request_id, "result": encoded}
    except RpcError as refusal:
        response = error(request_id, refusal.code, str(refusal), refusal.hint, refusal.kind)
    except BypassError as problem:
        kind = next(cls for cls in type(problem).__mro__ if cls in ERRORS)
        code, hint = ERRORS[kind]
        response = error(request_id, code, str(problem), getattr(problem, "hint", "") or hint, kind.__name__)
    except IllegalMoveError:
        raise
    except Exception:
        log.exception("method %s failed", name)
        response = error(request_id, INTERNAL, f"internal error in {name}", "the system log has the details")
    return response if "id" in request else None
