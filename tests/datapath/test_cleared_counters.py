# SPDX-License-Identifier: GPL-2.0-only
"""`clear counters` on a whole running appliance: what is shown starts again, what was counted goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.live import Live
from tests.support.wire import Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def frames(live: Live, since: str) -> int:
    """Frames that came in at the LAN port."""
    return int(live.call("counters.show", since=since)["ports"]["main/lan"]["frames"])


def test_shown_counters_start_again_and_the_total_goes_on(bpf_object: Path, tmp_path: Path) -> None:
    """Also under the next bypassd: the frames of before stay out of what is shown, and in the total."""
    with Wire() as wire, Live(wire, tmp_path, bpf_object) as live:
        assert wire.stream(64) == []
        before = frames(live, "load")
        assert before >= 32
        live.call("counters.clear")
        assert frames(live, "clear") < before
        assert wire.stream(64) == []
        shown, total = frames(live, "clear"), frames(live, "load")
        assert 32 <= shown < total
        assert total >= before + 32
        live.kill_bypassd()
        live.until(live.inline, "inline under the next bypassd")
        assert shown <= frames(live, "clear") < total
        assert frames(live, "load") >= total
