# SPDX-License-Identifier: GPL-2.0-only
"""Shared by the datapath's tests: the freshly compiled object, and temporary namespaces."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import boardspec
import pytest
from imagebuild import appliance_layer
from imagebuild.cache import Cache, default_root
from imagebuild.progress import Progress

from tests.support import leftovers
from tests.support.wire import Wire


def pytest_configure() -> None:
    """A terminated test run cleans up its namespaces, mounts and processes like a failing one."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Guests go on when the run is killed, or a test with them fails."""
    with leftovers.ended(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(scope="session")
def bpf_object() -> Path:
    """The datapath compiled from the sources as they are, or found in the image build's cache, keyed by them."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    cache, include = Cache(default_root()), boardspec.load().arch.include
    return appliance_layer.bpf_object(cache, boardspec.REPO, include, Progress(print)) / "steer.bpf.o"


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A LAN host, a WAN host and the appliance between them, each in a namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Wire() as made:
        yield made
