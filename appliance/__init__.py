# SPDX-License-Identifier: GPL-2.0-only
"""The supervisor of a Throughwire bypass appliance.

`__version__` is looked up when it is first asked for: importlib.metadata costs more than all that the keeper imports.
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("throughwire")
    except PackageNotFoundError:  # running from a tree that was never installed
        return "0+unknown"
