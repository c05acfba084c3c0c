# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation of throughwire.fleet.config; plugins/action/config.py does it, on the controller."""

DOCUMENTATION = """
module: config
short_description: Change the configuration of a Throughwire appliance
description:
  - Checks the change, commits it provisionally, opens a new connection and confirms the commit over it. If no new
    connection can be made, the appliance rolls the change back by itself and the task fails.
  - All of a task's changes are committed, or none. What is there already is not committed again.
  - Refused while a commit awaits confirmation or another user has uncommitted changes.
attributes:
  check_mode: {support: full, description: The appliance checks the change and says what it would change.}
  diff_mode: {support: full, description: Secrets are hidden.}
options:
  lines:
    description:
      - Lines as typed in C(configure) that begin with C(set), C(delete) or C(move), from the top level.
      - A deletion of what is not there is no error.
    type: list
    elements: str
  text:
    description: A whole configuration (TOML), for example from a template. Secrets that it hides stay as they are.
    type: str
  src:
    description: A file of the controller with a whole configuration, also in C(files/) of a role; may be in a vault.
    type: path
  merge:
    description: Add I(text) or I(src) to the configuration instead of replacing it.
    type: bool
    default: false
  comment:
    description: Why, for the history of the appliance. The name of the task if left out.
    type: str
  confirm_s:
    description:
      - Seconds until the appliance rolls the change back unless it is confirmed.
      - With 0 the change is committed at once; nothing rolls it back.
    type: int
    default: 90
author: [Throughwire]
"""

EXAMPLES = """
- name: Send web traffic through the IPS
  throughwire.fleet.config:
    lines:
      - set rule web match "tcp port 80"
      - set rule web path ips1
      - move rule web first
      - delete rule old

- name: The whole configuration from a template
  throughwire.fleet.config:
    text: "{{ lookup('ansible.builtin.template', 'box.toml.j2') }}"
"""

RETURN = """
commit:
  description: The number of the configuration in force.
  returned: success
  type: int
changes:
  description: What has changed, or would change. Secrets are hidden.
  returned: success
  type: list
  elements: dict
  sample: [{where: "rule web: match", old: tcp port 80, new: tcp port 8080, effect: "immediately, hitless"}]
warnings:
  description: What the appliance says about the change.
  returned: success
  type: list
  elements: str
"""
