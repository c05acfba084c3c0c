# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation of throughwire.fleet.backup; plugins/action/backup.py does it, on the controller."""

DOCUMENTATION = """
module: backup
short_description: Encrypted backup of a Throughwire appliance
description:
  - Writes configuration with secrets and SSH host keys, encrypted with a passphrase, to a file of the controller.
    C(restore) on the appliance reads it. Images of guests are not included.
  - A backup is new each time, so the task always says changed.
attributes:
  check_mode: {support: full, description: No file is written.}
options:
  dest:
    description: The file on the controller, replaced if it is there; its folder must exist.
    type: path
    required: true
  passphrase:
    description: The passphrase, from a vault for example.
    type: str
    required: true
author: [Throughwire]
"""

EXAMPLES = """
- throughwire.fleet.backup:
    dest: "backups/{{ inventory_hostname }}.backup"
    passphrase: "{{ backup_passphrase }}"
"""

RETURN = """
dest: {description: The file., returned: success, type: str}
bytes: {description: Its size., returned: unless in check mode, type: int}
"""
