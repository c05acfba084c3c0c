# SPDX-License-Identifier: GPL-2.0-only
"""What the datapath's tests share: the freshly compiled object, and namespaces that go away again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wire import Wire

ROOT = Path(__file__).resolve().parents[2]


def pytest_configure() -> None:
    """A terminated test run takes its namespaces, mounts and processes away as a failing one does."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


@pytest.fixture(scope="session")
def bpf_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datapath compiled from the sources as they are."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = tmp_path_factory.mktemp("bpf") / "steer.bpf.o"
    source = ROOT / "appliance/bpf/steer.bpf.c"
    flags = ["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3"]
    command = ["clang", *flags, f"-I/usr/include/{os.uname().machine}-linux-gnu"]
    subprocess.run([*command, "-c", str(source), "-o", str(made)], check=True)
    return made


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A LAN host, a WAN host and the appliance between them, each in a namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Wire() as made:
        yield made
