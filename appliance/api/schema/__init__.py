# SPDX-License-Identifier: GPL-2.0-only
"""What the methods of the control socket answer, as types. The published schema is generated from them
(`bypass api schema`), and it is a promise to clients.

Handlers return these types (`Registry.add` takes a method's entry in methods.py together with its handler, so mypy
checks it), and they are encoded as they are: nothing is checked at run time. A new method gets an entry in methods.py.
"""
