# SPDX-License-Identifier: GPL-2.0-only
"""The control socket's methods remotes.show, remote.*, serves.show and serve.show. Every method asks the manager."""

from __future__ import annotations

from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import methods
from appliance.api.schema import remotes as answer
from appliance.api.schema.base import Done
from appliance.remote.manager import RemoteManager

_NAME = {"name": Param("string", "the remote's name")}


def register(registry: Registry, manager: RemoteManager) -> None:
    """Add the methods to `registry`."""

    async def show_all(_: Params) -> list[answer.Remote]:
        return manager.summary()

    async def show(params: Params) -> answer.RemoteDetails:
        return manager.details(params["name"])

    async def start(params: Params) -> Done:
        return Done(manager.remote(params["name"]).start())

    async def stop(params: Params) -> Done:
        return Done(manager.remote(params["name"]).stop())

    async def drain(params: Params) -> Done:
        return Done(manager.remote(params["name"]).drain())

    async def bypass(params: Params) -> Done:
        return Done(manager.remote(params["name"]).bypass())

    async def show_served(_: Params) -> list[answer.Serve]:
        return manager.served()

    async def show_serve(params: Params) -> answer.ServeDetails:
        return manager.serve_details(params["name"])

    add = registry.add
    add(methods.REMOTES_SHOW, show_all, doc="Every remote: state, cause, lease, tunnel.")
    add(methods.REMOTE_SHOW, show, doc="One remote, with the evidence of its checks and its tunnels.", params=_NAME)
    add(methods.SERVES_SHOW, show_served, doc="What is served to other appliances: state, path, tunnel.")
    name = {"name": Param("string", "the name of its table")}
    add(methods.SERVE_SHOW, show_serve, doc="One of them, with its tunnels.", params=name)
    doc = "Start a remote, or put it back into service after a drain or a bypass."
    add(methods.REMOTE_START, start, "operator", doc, _NAME)
    add(methods.REMOTE_STOP, stop, "operator", "Take a remote's traffic away, then remove its tunnels.", _NAME)
    add(methods.REMOTE_DRAIN, drain, "operator", "Send a remote no new flows.", _NAME)
    doc = "Send a remote no frames at all; its tunnels and checks go on."
    add(methods.REMOTE_BYPASS, bypass, "operator", doc, _NAME)
