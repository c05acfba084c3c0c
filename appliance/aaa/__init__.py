# SPDX-License-Identifier: GPL-2.0-only
"""Authentication, authorization and accounting by servers: RADIUS and TACACS+. See README.md."""
