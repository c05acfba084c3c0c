# SPDX-License-Identifier: GPL-2.0-only
"""The answers of the control socket's methods, as types. The published schema (`bypass api schema`) is generated from
them and is a stable interface for clients.

Handlers return these types (`Registry.add` takes a method's entry in methods.py together with its handler, so mypy
checks it), and they are encoded without checks at run time. A new method gets an entry in methods.py.
"""
