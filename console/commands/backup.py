# SPDX-License-Identifier: GPL-2.0-only
"""`backup` and `restore`: configuration with its secrets and SSH host keys in one file, encrypted with a passphrase.

The file is a tar archive that GnuPG encrypted: `gpg -d FILE | tar -xz` reads it anywhere. Images are not in it: they
are large and come from somewhere else; `restore` names those that the appliance lacks. Without a terminal the
passphrase is the first line of standard input, before the backup if that is read from there too.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, Final

from appliance.counted import counted
from appliance.errors import BypassError, RefusedError
from console.commands import sealed
from console.commands.one_commit import commit, running
from console.commands.private_file import STDOUT, whole
from console.line.outcome import GOOD, REFUSED, Outcome
from console.line.parse import Parsed, seconds
from console.render import cell
from console.session import Context
from console.terminal.prompt import Asker

FORMAT: Final = 1
MOST: Final = 8 << 20  # bytes of a backup, before and after decryption
_CONFIG, _ABOUT, _KEYS = "config.toml", "about.json", "ssh/"


def backup(parsed: Parsed, context: Context) -> Outcome:
    """`backup FILE`."""
    name = parsed.args["FILE"]
    if name == STDOUT and context.out.isatty():
        raise RefusedError("a backup is binary: use `ssh USER@BOX backup - < PASSPHRASE-FILE > box.backup`")
    files = _collect(context)
    data = sealed.seal(_pack(files), _passphrase(again=True))
    left_out = ", ".join(json.loads(files[_ABOUT])["images"]) or "none"
    if name == STDOUT:
        context.out.flush()
        context.out.buffer.write(data)
        context.out.buffer.flush()
        context.say(f"{counted(len(data), 'byte')}; images are not included: {left_out}")
        return Outcome([], "lines")
    with whole(Path(name)) as out:
        out.write(data)
    said = f"{name}: {counted(len(data), 'byte')}: configuration and SSH host keys; images are not included: {left_out}"
    return Outcome({"message": said, "file": name, "bytes": len(data)}, "done")


def restore(parsed: Parsed, context: Context) -> Outcome:
    """`restore FILE [--configuration-only] [--confirmed TIME]`."""
    name = parsed.args["FILE"]
    if name == STDOUT and sys.stdin.isatty():
        raise RefusedError(
            "standard input is a terminal: name a file, or send the passphrase, a newline and the backup"
        )
    data = b"" if name == STDOUT else _read(Path(name))
    phrase = _passphrase(again=False)
    files = _unpack(sealed.open_sealed(data or sys.stdin.buffer.read(MOST + 1), phrase))
    about = json.loads(files[_ABOUT])
    what = f"backup of {cell(about.get('hostname'))} from {cell(about.get('when'))}"
    asker = Asker(style=context.style if context.terminal is not None else None)
    if asker.terminal:
        asker.say(f"This is the {what}. It replaces the whole configuration; sessions may end.")
        if not asker.yes("Restore it?", False):
            raise RefusedError("nothing was changed")
    params: dict[str, object] = {"comment": f"restored from the {what}"}
    if "--confirmed" in parsed.options:
        params["confirmed_s"] = seconds(parsed.options["--confirmed"][0])

    def load() -> None:
        context.client.call("config.load", {"text": files[_CONFIG].decode(), "mode": "replace", "source": name})

    done = commit(context.client, load, params)
    said, code = [cell(done.get("message"))], GOOD
    keys = [f"{path.removeprefix(_KEYS)} {_base64(data)}" for path, data in files.items() if path.startswith(_KEYS)]
    if keys and "--configuration-only" not in parsed.options:
        try:
            said.append(cell(context.client.call("host-keys.replace", {"keys": keys}, 60.0).get("message")))
        except BypassError as error:  # the configuration is in force already
            context.say(f"error: {cell(error)}")
            code = REFUSED
    missing = [image for image in about.get("images", []) if image not in _images(context)]
    said += [f"image {cell(image)} is not on this appliance: `guest import` brings it" for image in missing]
    summary = {"message": "; ".join(said), "commit": done.get("number", 0), "missing_images": missing}
    return Outcome(summary if "--json" in parsed.options else said, "lines", code)


def _collect(context: Context) -> dict[str, bytes]:
    """The files of a backup, by path."""
    text = context.client.call("config.show", {"of": "running", "secrets": True})["text"]
    files = {_CONFIG: text.encode()}
    for row in context.client.call("host-keys.read")["keys"]:
        name, _, data = row.partition(" ")
        files[f"{_KEYS}{name}"] = base64.b64decode(data)
    now = running(context.client)
    about: dict[str, Any] = {
        "format": FORMAT,
        "hostname": now.get("system", {}).get("hostname", "bypass"),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": context.client.call("version.show").get("version", ""),
        "images": sorted(_needed(now)),
    }
    return {_ABOUT: json.dumps(about, indent=2).encode(), **files}


def _needed(config: dict[str, Any]) -> set[str]:
    """The files that the guests of a configuration boot from."""
    guests = [guest for guest in config.get("guest", []) if isinstance(guest, dict)]
    named = [guest.get(key) for guest in guests for key in ("image", "kernel", "initrd")]
    named += [disk.get("image") for guest in guests for disk in guest.get("disks", []) if isinstance(disk, dict)]
    return {str(name) for name in named if name and not str(name).startswith("/")}  # the others are of the firmware


def _images(context: Context) -> set[str]:
    return {str(row.get("name")) for row in context.client.call("images.show")}


def _pack(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, data in files.items():
            about = tarfile.TarInfo(path)
            about.size, about.mode, about.mtime = len(data), 0o600, int(time.time())
            archive.addfile(about, io.BytesIO(data))
    return packed.getvalue()


def _unpack(data: bytes) -> dict[str, bytes]:
    """The files of a backup, by path. RefusedError: it is none, or one of a later firmware."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for about in archive:
                file = archive.extractfile(about)
                if file is not None and about.size + sum(map(len, files.values())) <= MOST:
                    files[about.name] = file.read()
        about = json.loads(files[_ABOUT])
        text = files[_CONFIG].decode()
        known = int(about["format"]) <= FORMAT
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise RefusedError("this is not a backup of an appliance") from error
    if not known or not text:
        raise RefusedError(f"this backup has format {about['format']}: this firmware reads up to {FORMAT}")
    return files


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        raise RefusedError(f"{path}: cannot be read: {error.strerror}") from error
    if not data or len(data) > MOST:
        raise RefusedError(f"{path}: is not a backup: it has {'no bytes' if not data else f'more than {MOST} bytes'}")
    return data


def _passphrase(*, again: bool) -> str:
    """Typed, and a new one typed `again`; or the first line of standard input. RefusedError: none, too short."""
    if not sys.stdin.isatty():
        return _good(sys.stdin.buffer.readline().decode("utf-8", "replace").rstrip("\r\n"), new=again)
    asker = Asker()
    with asker.unseen():
        phrase = _good(asker.secret("Passphrase of the backup"), new=again)
        if again and asker.secret("Confirm passphrase") != phrase:
            raise RefusedError("the passphrases do not match; nothing was written")
    return phrase


def _good(phrase: str, *, new: bool) -> str:
    if not phrase:
        raise RefusedError("no passphrase was given; without a terminal it is the first line of standard input")
    if len(phrase) > sealed.MOST or (new and len(phrase) < sealed.LEAST):
        raise RefusedError(f"a passphrase has {sealed.LEAST} to {sealed.MOST} characters")
    return phrase


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
