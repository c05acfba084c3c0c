# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation of throughwire.fleet.facts; plugins/action/facts.py does it, on the controller."""

DOCUMENTATION = """
module: facts
short_description: State and configuration of a Throughwire appliance
description:
  - Reads version, status, system, segments, relays, ports, guests, remotes, the state of the configuration
    (C(commits)), and the running configuration, without secrets.
  - Fields are those of C(api schema) on the appliance.
  - Needs no Python on the appliance; play with C(gather_facts=false).
attributes:
  check_mode: {support: full, description: It changes nothing.}
options: {}
author: [Throughwire]
"""

EXAMPLES = """
- throughwire.fleet.facts:
- ansible.builtin.assert:
    that: throughwire.segments | selectattr("relay", "ne", "inline") | length == 0
    fail_msg: a segment is bypassed
"""

RETURN = """
ansible_facts:
  description: One dictionary, C(throughwire).
  returned: always
  type: dict
  sample: {throughwire: {version: {version: 0.1.0}, segments: [{name: main, relay: inline}], configuration: {}}}
"""
