# SPDX-License-Identifier: GPL-2.0-only
"""Files that commands write: readable only by their owner, never overwriting another, complete or absent."""

import errno
from pathlib import Path

import pytest

from appliance.errors import RefusedError
from console.commands.private_file import create, whole


def test_whole_file_is_its_owners_alone(tmp_path: Path) -> None:
    with whole(tmp_path / "f") as out:
        out.write(b"data")
    assert (tmp_path / "f").read_bytes() == b"data"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(RefusedError, match="already exists"):
        create(tmp_path / "f")
    with pytest.raises(RefusedError, match="already exists"), whole(tmp_path / "f"):
        pass
    assert (tmp_path / "f").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_half_a_file_is_removed(tmp_path: Path, error: BaseException) -> None:
    """A full disk is reported as a refusal; an interrupted write leaves nothing."""

    def work() -> None:
        with whole(tmp_path / "f") as out:
            out.write(b"half")
            raise error

    with pytest.raises(RefusedError if isinstance(error, OSError) else KeyboardInterrupt):
        work()
    assert not (tmp_path / "f").exists()


def test_no_such_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="No such file"):
        create(tmp_path / "none/f")
