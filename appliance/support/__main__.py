# SPDX-License-Identifier: GPL-2.0-only
"""`python -m appliance.support FILE`: the collector as a separate process, started by bypassd (service.py).

Standard input is JSON: the root folder, the answers of the control socket, and the secrets to remove.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from appliance.support.bundle import make


def main() -> int:
    """Collect into FILE; status 1 and one line on standard error when it cannot be written."""
    given = json.load(sys.stdin)
    os.nice(15)
    path = Path(sys.argv[1])
    try:
        with path.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            make(file, Path(given["root"]), given["api"], given["secrets"])
    except OSError as error:
        path.unlink(missing_ok=True)
        print(f"{path}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
