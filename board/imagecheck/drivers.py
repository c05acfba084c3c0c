# SPDX-License-Identifier: GPL-2.0-only
"""The kernel options that a board's description needs: drivers of its ports, watchdogs and relays. Pure.

A driver that is not listed here is an error too, so that a new board comes with its options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from appliance.hardware.board import Board

PORTS: Mapping[str, tuple[str, ...]] = {
    "e1000e": ("E1000E",),
    "igb": ("IGB",),
    "igc": ("IGC",),
    "ixgbe": ("IXGBE",),
    "i40e": ("I40E",),
    "ice": ("ICE",),
    "fec": ("FEC",),
    "stmmac": ("STMMAC_ETH", "STMMAC_PLATFORM"),
}
"""By driver of a port."""
WATCHDOGS: Mapping[str, tuple[str, ...]] = {
    "i6300esb": ("I6300ESB_WDT",),
    "iTCO_wdt": ("ITCO_WDT",),
    "imx2-wdt": ("IMX2_WDT",),
    "gpio_wdt": ("GPIO_WATCHDOG",),
    "softdog": ("SOFT_WATCHDOG",),
    "": (),
}
RELAYS: Mapping[str, tuple[str, ...]] = {
    "expander": ("I2C_CHARDEV",),
    "bypass-controller": ("I2C_CHARDEV",),
    "block": ("I2C_CHARDEV",),
    "port": ("DEVPORT",),
    "attribute": (),
    **dict.fromkeys(("level", "gpio", "latching", "keep-alive"), ("GPIO_CDEV",)),
}
"""By kind of relay."""
ADAPTERS: Mapping[str, tuple[str, ...]] = {"SMBus I801": ("I2C_I801",), "SMBus PIIX4": ("I2C_PIIX4",)}
"""By the beginning of an adapter's name."""
CLOSES = frozenset(("igb", "fec", "stmmac"))
"""Drivers of ports that close and reopen the port when an XDP program comes or goes."""


def needed(board: Board) -> dict[str, str]:
    """Option -> what of the board needs it. KeyError names a driver or kind that is not listed."""
    return {f"CONFIG_{option}": why for options, why in _needed(board) for option in options}


def _needed(board: Board) -> Iterator[tuple[tuple[str, ...], str]]:
    for port in board.port:
        if port.driver:
            yield PORTS[port.driver], f"port {port.name}: driver {port.driver}"
    if board.watchdog is not None:
        for driver in (board.watchdog.driver, *board.watchdog.also):
            yield WATCHDOGS[driver], f"watchdog {driver}"
        if board.watchdog.pretimeout:
            yield ("WATCHDOG_PRETIMEOUT_GOV_PANIC",), "pretimeout of the watchdog"
    for relay in board.relay:
        yield RELAYS[relay.kind], f"relay of kind {relay.kind}"
        name = str(relay.options.get("adapter", ""))
        for beginning, options in ADAPTERS.items():
            if name.startswith(beginning):
                yield options, f'adapter "{name}"'
