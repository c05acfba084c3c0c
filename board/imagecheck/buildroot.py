# SPDX-License-Identifier: GPL-2.0-only
"""What an image has that a Buildroot configuration describes. Pure: tables, and questions to them.

A configuration is a dictionary from option to value: of a whole `.config`, or of a defconfig stack with what the
appliance's own package selects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Settings = Mapping[str, str]

PROGRAMS: dict[str, tuple[str, ...]] = {
    "BR2_PACKAGE_BUSYBOX": ("busybox",),
    "BR2_PACKAGE_CHRONY": ("chronyc", "chronyd"),
    "BR2_PACKAGE_DROPBEAR": ("dropbear", "dropbearkey"),
    "BR2_PACKAGE_E2FSPROGS": ("e2fsck", "mke2fs", "tune2fs"),
    "BR2_PACKAGE_E2FSPROGS_RESIZE2FS": ("resize2fs",),
    "BR2_PACKAGE_ETHTOOL": ("ethtool",),
    "BR2_PACKAGE_EUDEV": ("udevadm", "udevd"),
    "BR2_PACKAGE_GNUPG2": ("gpg",),
    "BR2_PACKAGE_IPROUTE2": ("bridge", "ip", "ss", "tc"),
    "BR2_PACKAGE_LLDPD": ("lldpcli", "lldpd"),
    "BR2_PACKAGE_NETSNMP_SERVER": ("snmpd",),
    "BR2_PACKAGE_PYTHON3": ("python3",),
    "BR2_PACKAGE_QEMU_SYSTEM": ("qemu-system-x86_64",),
    "BR2_PACKAGE_QEMU_TOOLS": ("qemu-img",),
    "BR2_PACKAGE_THROUGHWIRE": ("bypass", "bypassd", "bypass-keeper"),
    "BR2_TARGET_GRUB2_INSTALL_TOOLS": ("grub-editenv",),
    "BR2_PACKAGE_UTIL_LINUX_BINARIES": ("sfdisk",),
    "BR2_PACKAGE_UTIL_LINUX_PARTX": ("partx",),
    "BR2_PACKAGE_WIREGUARD_TOOLS": ("wg",),
}
"""Option -> programs that are in the image with it. Everything else must be an applet of busybox."""

SAME = frozenset({"busybox", "ip"})
"""Programs whose applet of the same name does what our scripts ask of it."""

_APPLETS = {"[": "TEST1", "[[": "TEST2", "sh": "ASH", "bash": "BASH_IS_ASH"}
"""Applets whose option in busybox has another name than they have."""

MODULES = {
    "bz2": "BR2_PACKAGE_PYTHON3_BZIP2",
    "_bz2": "BR2_PACKAGE_PYTHON3_BZIP2",
    "curses": "BR2_PACKAGE_PYTHON3_CURSES",
    "_curses": "BR2_PACKAGE_PYTHON3_CURSES",
    "_decimal": "BR2_PACKAGE_PYTHON3_DECIMAL",
    "readline": "BR2_PACKAGE_PYTHON3_READLINE",
    "ssl": "BR2_PACKAGE_PYTHON3_SSL",
    "_ssl": "BR2_PACKAGE_PYTHON3_SSL",
    "_hashlib": "BR2_PACKAGE_PYTHON3_SSL",
    "unicodedata": "BR2_PACKAGE_PYTHON3_UNICODEDATA",
    "sqlite3": "BR2_PACKAGE_PYTHON3_SQLITE",
    "_sqlite3": "BR2_PACKAGE_PYTHON3_SQLITE",
    "pyexpat": "BR2_PACKAGE_PYTHON3_PYEXPAT",
    "lzma": "BR2_PACKAGE_PYTHON3_XZ",
    "_lzma": "BR2_PACKAGE_PYTHON3_XZ",
    "zlib": "BR2_PACKAGE_PYTHON3_ZLIB",
    "compression.zstd": "BR2_PACKAGE_PYTHON3_ZSTD",
}
"""Modules of the standard library that Buildroot's Python has only with an option."""

GUEST_WORDS = {
    r"-sandbox on": "BR2_PACKAGE_LIBSECCOMP",
    r"-kernel ": "BR2_PACKAGE_QEMU_BLOBS",
    r"if=pflash": "BR2_PACKAGE_QEMU_BLOBS",
    r"-accel kvm": "BR2_PACKAGE_QEMU_SYSTEM_KVM",
    r'"driver": "qcow2"': "BR2_PACKAGE_ZSTD",  # images that are compressed with zstd are accepted (image/qcow2.py)
    r"-netdev tap": "BR2_PACKAGE_QEMU_SYSTEM",
}
"""Pattern in the words that guests are started with -> what QEMU must be built with."""

FILES = {
    r"/usr/share/bypass/guest-demo/.*": "BR2_PACKAGE_THROUGHWIRE_DEMO_GUEST",
    r"/usr/share/bypass/.*": "BR2_PACKAGE_THROUGHWIRE",
    r"/health": "BR2_PACKAGE_THROUGHWIRE",
}
"""Pattern of a file that a default configuration names -> the option that installs it."""

ALWAYS = {
    "BR2_PACKAGE_CA_CERTIFICATES": "https probes with `verify` need the authorities' certificates",
    "BR2_FORTIFY_SOURCE_2": "programs that read what guests send are built with checks of their buffers",
    "BR2_SSP_STRONG": "programs that read what guests send are built with stack protectors",
    "BR2_TARGET_TZ_INFO": "times are shown in the administrator's time zone",
    "BR2_REPRODUCIBLE": "two builds of one commit must be the same",
}
"""What no source names, and an image needs nevertheless."""


def on(config: Settings, option: str) -> bool:
    """Whether the configuration has the option."""
    return config.get(option, "n") == "y"


def selected(kconfig: str) -> set[str]:
    """The options that a package's Config.in selects without a condition (pure)."""
    return set(re.findall(r"^\tselect (BR2_\w+)(?: #.*)?$", kconfig, re.MULTILINE))


def applet_option(applet: str) -> str:
    """The option of an applet of busybox."""
    return "CONFIG_" + _APPLETS.get(applet, applet.upper().replace("-", "_"))


def known_programs() -> list[str]:
    """Every program of the table above."""
    return [name for names in PROGRAMS.values() for name in names]


def missing_programs(needed: Mapping[str, str], config: Settings, busybox: Settings) -> list[str]:
    """Programs and applets that the image lacks, with who starts them and the option that would bring them."""
    by_name = {name: option for option, names in PROGRAMS.items() for name in names}
    found = []
    for name, where in sorted(needed.items()):
        option = by_name.get(name)
        if option is None:
            applet = applet_option(name)
            if busybox.get(applet, "n") != "y":
                found.append(f"{where} runs {name}: busybox is built without {applet}, and no package has it")
        elif not on(config, option):
            found.append(f"{where} runs {name}: {option} is not set")
    return found


def hidden_programs(run: Mapping[str, str], busybox: Settings) -> list[str]:
    """Programs of packages that `run` names without a path: busybox's shell runs its own applet instead."""
    return [
        f"{where} runs {name}: busybox's shell runs its own instead; give the whole path, or leave {applet} out"
        for name, where in sorted(run.items())
        if name in set(known_programs()) - SAME and busybox.get(applet := applet_option(name), "n") == "y"
    ]


def missing_words(argv: Iterable[str], config: Settings) -> list[str]:
    """What QEMU would refuse of the words that a guest is started with."""
    words = " ".join(argv)
    return [
        f"guests are started with {pattern.strip()!r}: {option} is not set"
        for pattern, option in GUEST_WORDS.items()
        if re.search(re.escape(pattern), words) and not on(config, option)
    ]


def missing_files(named: Mapping[str, str], config: Settings) -> list[str]:
    """Files that a default configuration names and the image does not hold."""
    found = []
    for path, where in named.items():
        option = next((option for pattern, option in FILES.items() if re.fullmatch(pattern, path)), None)
        if option is None:
            found.append(f"the default configuration names {path} ({where}), which nothing installs")
        elif not on(config, option):
            found.append(f"the default configuration names {path} ({where}): {option} is not set")
    return found


def missing_always(config: Settings) -> list[str]:
    """Options that are needed although no source names them."""
    return [f"{option} is not set: {why}" for option, why in ALWAYS.items() if not on(config, option)]


def blocked_modules(config: Settings) -> list[str]:
    """Modules of the standard library that the image's Python lacks."""
    return sorted(name for name, option in MODULES.items() if not on(config, option))
