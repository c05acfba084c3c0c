# SPDX-License-Identifier: GPL-2.0-only
"""Relays. protocol.py is the interface that every kind of drive implements, kinds.py the registry of kinds, table.py
reads a `[[relay]]` table of board.toml, factory.py makes the relay of one; every other module is a kind, or shared by
several.
"""
