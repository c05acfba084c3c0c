# SPDX-License-Identifier: GPL-2.0-only
"""The appliance's interfaces to Linux. Nothing here knows about the appliance."""
