# SPDX-License-Identifier: GPL-2.0-only
"""The configurations on the disk: history, pending, and the power cut between any two system calls.

The disk is real files plus a record of what was synced. At a power cut everything that was not synced is lost, kept or
torn, in all combinations; in each of them the appliance must find the old or the new text.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config.check.load import loads
from appliance.config.commit.store import KEPT, Entry, Pending, Store
from appliance.errors import RefusedError
from appliance.system import files
from appliance.system.files import Disk

BOOT = "boot-1"
OLD, NEW = '[system]\nhostname = "old"\n', '[system]\nhostname = "new"\n' + "# more than one piece\n" * 40


class PowerCut(BaseException):
    """The power is cut; no handler runs any more."""


class CutDisk(Disk):
    """Ends after `calls` system calls, and knows what the platter has then."""

    def __init__(self, calls: int) -> None:
        self.left, self.made = calls, 0
        self._open: dict[int, Path] = {}
        self.content: dict[Path, bytes] = {}  # of synced files, by the name they had
        self.torn: set[Path] = set()  # in place before their content was synced
        self.names: dict[Path, list[tuple[str, Path, Path | None]]] = {}  # by folder: changes that are not synced

    def _call(self) -> None:
        if self.left == 0:
            raise PowerCut
        self.left -= 1
        self.made += 1

    def create(self, path: Path) -> int:
        self._call()
        fd = super().create(path)
        self._open[fd] = path
        return fd

    def write(self, fd: int, data: bytes) -> int:
        self._call()
        return super().write(fd, data[:100])  # in pieces, as a real disk may

    def sync(self, fd: int) -> None:
        self._call()
        path = self._open[fd]
        self.content[path] = path.read_bytes()

    def rename(self, old: Path, new: Path) -> None:
        self._call()
        before = new.read_bytes() if new.exists() else None
        data = self.content.get(old, b"")
        if data != old.read_bytes():
            self.torn.add(new)
        super().rename(old, new)
        self.names.setdefault(new.parent, []).append(("rename", new, _keep(new, before)))
        self.content[new] = data

    def unlink(self, path: Path) -> None:
        self._call()
        before = path.read_bytes()
        super().unlink(path)
        self.names.setdefault(path.parent, []).append(("unlink", path, _keep(path, before)))

    def sync_folder(self, folder: Path) -> None:
        self._call()
        self.names.pop(folder, None)

    def lose(self) -> None:
        """Undo every change of a name that was not synced, the newest first."""
        for changes in self.names.values():
            for _, path, saved in reversed(changes):
                if saved is None:
                    path.unlink(missing_ok=True)
                else:
                    shutil.copyfile(saved, path)

    def tear(self, root: Path) -> None:
        """Cut every file whose content was not synced to half."""
        unsynced = [path for path in root.rglob("*.toml.new") if self.content.get(path) != path.read_bytes()]
        for path in {*unsynced, *self.torn}:
            os.truncate(path, path.stat().st_size // 2)


def _keep(path: Path, data: bytes | None) -> Path | None:
    if data is None:
        return None
    saved = path.with_name(f".saved-{path.name}-{len(list(path.parent.glob('.saved-*')))}")
    saved.write_bytes(data)
    return saved


def make(root: Path, system: Disk | None = None) -> Store:
    return Store(root / "etc/config.toml", root / "state", system)


def entry(number: int, text: str, user: str = "admin", comment: str = "") -> Entry:
    return Entry(number, "2026-01-01T00:00:00+00:00", user, comment, "commit", text)


def begin(root: Path) -> Store:
    (root / "etc").mkdir(parents=True)
    (root / "etc/config.toml").write_text(OLD)
    store = make(root)
    assert store.recover(BOOT, 0).text == OLD
    return store


def commit(store: Store, text: str, comment: str = "") -> None:
    new = entry(store.newest + 1, text, comment=comment)
    store.stage(new)
    store.publish(new)


def worlds(tmp_path: Path, act: Callable[[Store], None]) -> Iterator[tuple[str, Path]]:
    """The disk after a power cut behind every system call of `act`, in each of its possible states."""
    for loss in ("kept", "lost", "torn"):
        calls = 0
        while True:
            root = tmp_path / f"{loss}-{calls}"
            begin(root)
            system = CutDisk(calls)
            done = True
            try:
                act(make(root, system))
            except PowerCut:
                done = False
            if loss == "lost":
                system.lose()
            elif loss == "torn":
                system.tear(root)
            yield f"{loss}, cut after {calls} calls{', done' if done else ''}", root
            if done:
                assert calls > 5, "the power was never cut inside"
                break
            calls += 1


# -- history


def test_first_start_takes_startup_into_the_history(tmp_path: Path) -> None:
    store = begin(tmp_path)
    (first,) = store.history()
    assert (first.number, first.how, first.text) == (1, "installed", OLD)


def test_commits_are_kept_with_their_reasons(tmp_path: Path) -> None:
    store = begin(tmp_path)
    commit(store, NEW, 'a "quoted" reason\nof two lines')
    newest, oldest = store.history()
    assert (newest.number, newest.user, newest.comment) == (2, "admin", 'a "quoted" reason\nof two lines')
    assert (newest.text, oldest.text, store.startup_text()) == (NEW, OLD, NEW)
    assert store.entry(1).text == OLD
    with pytest.raises(RefusedError, match="2 are kept"):
        store.entry(2)


def test_a_file_of_the_history_is_a_configuration_itself(tmp_path: Path) -> None:
    store = begin(tmp_path)
    commit(store, NEW, "why\n[not a table]")
    shutil.copy(tmp_path / "state/000002.toml", tmp_path / "etc/config.toml")
    assert loads(store.startup_text()).system.hostname == "new"


def test_the_oldest_are_dropped(tmp_path: Path) -> None:
    store = begin(tmp_path)
    for number in range(KEPT + 3):
        commit(store, f'[system]\nhostname = "h{number}"\n')
    entries = store.history()
    assert len(entries) == KEPT
    assert entries[0].number == KEPT + 4
    assert entries[-1].number == 5


def test_edited_by_hand(tmp_path: Path) -> None:
    """An edited startup becomes the newest of the history; nothing is lost."""
    store = begin(tmp_path)
    (tmp_path / "etc/config.toml").write_text(NEW)
    store.recover(BOOT, 0)
    assert [(each.how, each.text) for each in store.history()] == [("found", NEW), ("installed", OLD)]


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"# throughwire configuration x\n# ---\n", b"# ---\n[a]\n"])
def test_junk_in_the_folder(tmp_path: Path, junk: bytes) -> None:
    store = begin(tmp_path)
    for name in ("000009.toml", "pending.toml", "x.toml", "000003.toml.new"):
        (tmp_path / "state" / name).write_bytes(junk)
    begun = make(tmp_path).recover(BOOT, 0)
    assert (begun.text, begun.pending) == (OLD, None)
    assert OLD in [each.text for each in store.history()]


# -- power cuts


def test_power_cut_in_a_commit(tmp_path: Path) -> None:
    """Behind every system call of a commit: startup is the old or the new text, and the newest of the history."""
    seen = set()
    for world, root in worlds(tmp_path, lambda store: commit(store, NEW)):
        begun = make(root).recover(BOOT, 0)
        assert begun.text in (OLD, NEW), world
        assert begun.error is None
        after = make(root)
        assert after.entry(0).text == begun.text, world
        if world.endswith("done"):
            assert begun.text == NEW, world
        seen.add(begun.text)
        commit(after, NEW)  # and the next commit works
        assert make(root).recover(BOOT, 0).text == NEW, world
    assert seen == {OLD, NEW}


def test_power_cut_while_one_is_pending(tmp_path: Path) -> None:
    """Behind every system call of `commit confirmed`: after the reboot the old text holds, and nothing is pending."""

    def act(store: Store) -> None:
        store.write_pending(Pending(entry(2, NEW), BOOT, 10**12, 0))

    for world, root in worlds(tmp_path, act):
        begun = make(root).recover("boot-2", 0)
        assert (begun.text, begun.pending) == (OLD, None), world
        assert make(root).pending() is None, world


def test_power_cut_in_a_confirmation(tmp_path: Path) -> None:
    """Behind every system call of a confirmation: old or new, whole, and never both."""

    def act(store: Store) -> None:
        store.write_pending(Pending(entry(2, NEW), BOOT, 10**12, 0))
        commit(store, NEW)
        store.remove_pending()

    for world, root in worlds(tmp_path, act):
        begun = make(root).recover("boot-2", 0)
        assert begun.text in (OLD, NEW), world
        assert make(root).entry(0).text == begun.text, world
        assert begun.pending is None
        if world.endswith("done"):
            assert begun.text == NEW, world


def test_the_cut_disk_finds_a_write_in_place(tmp_path: Path) -> None:
    """The test can fail: a writer that does not stage is caught."""

    def careless(store: Store) -> None:
        system: Disk = store._disk
        for _ in range(3):
            fd = system.create(store.startup)
            try:
                system.write(fd, NEW.encode())
            finally:
                os.close(fd)

    texts = {make(root).startup_text() for _, root in worlds(tmp_path, careless)}
    assert "" in texts


def test_the_cut_disk_finds_a_missing_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above: a writer that renames before it synced is caught."""
    monkeypatch.setattr(CutDisk, "sync", lambda self, fd: self._call())
    texts = {make(root).startup_text() for _, root in worlds(tmp_path, lambda store: commit(store, NEW))}
    assert texts - {OLD, NEW}


# -- disks that refuse


class FullDisk(Disk):
    def write(self, fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")


def test_full_disk_changes_nothing(tmp_path: Path) -> None:
    begin(tmp_path)
    store = make(tmp_path, FullDisk())
    with pytest.raises(RefusedError, match="No space left on device"):
        store.stage(entry(2, NEW))
    assert make(tmp_path).startup_text() == OLD
    assert not list(tmp_path.rglob("*.new"))


def test_written_for_the_owner_alone(tmp_path: Path) -> None:
    commit(begin(tmp_path), NEW)
    for path in tmp_path.rglob("*.toml"):
        if path.name != "config.toml" or path.read_text() == NEW:
            assert path.stat().st_mode & 0o077 == 0, path
    files.write(Disk(), tmp_path / "deep/er/file", b"x")
    assert (tmp_path / "deep/er/file").read_bytes() == b"x"


# -- pending


def test_pending_holds_over_one_restart_of_bypassd(tmp_path: Path) -> None:
    store = begin(tmp_path)
    store.write_pending(Pending(entry(2, NEW), BOOT, 60 * 10**9, 0))
    begun = make(tmp_path).recover(BOOT, 10**9)
    assert (begun.text, begun.pending is not None) == (NEW, True)
    assert "still holds, for 59 s" in begun.notes[0]
    again = make(tmp_path).recover(BOOT, 2 * 10**9)
    assert (again.text, again.pending) == (OLD, None)
    assert "restarted again" in again.notes[0]
    assert make(tmp_path).recover(BOOT, 3 * 10**9).notes == ()


def test_pending_that_cannot_be_used(tmp_path: Path) -> None:
    store = begin(tmp_path)
    store.write_pending(Pending(entry(2, "nonsense"), BOOT, 60 * 10**9, 0))
    assert make(tmp_path).recover(BOOT, 1).pending is not None
    begun = make(tmp_path).give_up_pending()
    assert (begun.text, begun.pending, make(tmp_path).pending()) == (OLD, None, None)


@pytest.mark.parametrize(
    ("boot", "at", "why"), [("boot-2", 1, "machine was restarted"), (BOOT, 61, "not confirmed in time")]
)
def test_pending_ends(tmp_path: Path, boot: str, at: int, why: str) -> None:
    store = begin(tmp_path)
    store.write_pending(Pending(entry(2, NEW, "mia"), BOOT, 60 * 10**9, 0))
    begun = make(tmp_path).recover(boot, at * 10**9)
    assert begun.text == OLD
    assert why in begun.notes[0]
    assert "mia" in begun.notes[0]
    assert store.startup_text() == OLD
