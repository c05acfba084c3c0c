# SPDX-License-Identifier: GPL-2.0-only
"""The order in which all tests run."""

from __future__ import annotations

import pytest

from tests.support import order


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.by_kind(items)
