# SPDX-License-Identifier: GPL-2.0-only
"""The supervisor of a Throughwire bypass appliance.

`__version__` is read from the name of the installed distribution's metadata folder (`throughwire-VERSION.dist-info`,
PyPA "Recording installed projects"). importlib.metadata would find the same, but would take a tenth of the import time
before bypassd can go inline.
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import os
    import sys

    head, tail = "throughwire-", ".dist-info"
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:  # a zip file, or a folder that does not exist
            continue
        for found in names:
            if found.startswith(head) and found.endswith(tail):
                globals()["__version__"] = version = found[len(head) : -len(tail)]
                return version
    return "0+unknown"  # running from a tree that was never installed
