# SPDX-License-Identifier: GPL-2.0-only
"""An object file of the datapath, loaded into the kernel on the maps that are pinned already."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from appliance.errors import DatapathError
from appliance.steering.kernel.layout import MAPS
from appliance.system import libbpf


class Object:
    """An object file's maps and programs, loaded into the kernel. Lives until `close`; what is pinned stays."""

    def __init__(self, path: Path, pin_maps: Path | None, without: Collection[str] = ()) -> None:
        """Load all but the programs `without`. With `pin_maps` a map is taken from there if it fits, else pinned there.

        DatapathError when the file is missing, or the kernel refuses it (with the verifier's last words).
        """
        lib = libbpf.library()
        libbpf.forget_messages()
        if not path.is_file():
            raise DatapathError(f"{path}: the compiled datapath is missing (make bpf)")
        self._object = lib.bpf_object__open_file(str(path).encode(), None)
        if not self._object:
            raise libbpf.fail(f"{path}: not a BPF object", 0)
        self._path = path
        for name in without:
            libbpf.check(f"program {name}", lib.bpf_program__set_autoload(self._program(name), False))
        if pin_maps is not None:
            for name in MAPS:
                if (pin_maps / name).exists():
                    self._reuse(name, pin_maps / name)
                else:
                    pin = str(pin_maps / name).encode()
                    libbpf.check(f"map {name}", lib.bpf_map__set_pin_path(self._map(name), pin))
        error = lib.bpf_object__load(self._object)
        if error:
            lib.bpf_object__close(self._object)
            raise DatapathError(f"{libbpf.fail(f'{path}: the kernel refuses it', error)}: {libbpf.verifier_says()}")

    def _reuse(self, name: str, path: Path) -> None:
        """Use the pinned map. libbpf could do it, but refuses a devmap: the kernel adds a flag to it."""
        lib, wanted = libbpf.library(), self._map(name)
        fd = libbpf.get_pinned(path)
        try:
            about = libbpf.info(fd, libbpf.MapInfo())
            shape = (about.type, about.key_size, about.value_size, about.max_entries)
            parts = (lib.bpf_map__type, lib.bpf_map__key_size, lib.bpf_map__value_size, lib.bpf_map__max_entries)
            if shape != tuple(part(wanted) for part in parts):
                raise DatapathError(f"map {name}: the pinned one has another shape")
            libbpf.check(f"map {name}", lib.bpf_map__reuse_fd(wanted, fd))
        finally:
            os.close(fd)

    def _map(self, name: str) -> int:
        found = libbpf.library().bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise DatapathError(f"{self._path}: has no map {name}: it is of another version")
        return int(found)

    def map_fd(self, name: str) -> int:
        """A descriptor of the map that outlives this object; the caller closes it."""
        return os.dup(libbpf.check(f"map {name}", libbpf.library().bpf_map__fd(self._map(name))))

    def program_fd(self, name: str) -> int:
        """A descriptor of the program that outlives this object; the caller closes it."""
        return os.dup(libbpf.check(f"program {name}", libbpf.library().bpf_program__fd(self._program(name))))

    def _program(self, name: str) -> int:
        found = libbpf.library().bpf_object__find_program_by_name(self._object, name.encode())
        if not found:
            raise DatapathError(f"{self._path}: has no program {name}: it is of another version")
        return int(found)

    def close(self) -> None:
        """Let go of the object; descriptors handed out stay."""
        libbpf.library().bpf_object__close(self._object)
