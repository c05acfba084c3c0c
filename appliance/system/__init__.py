# SPDX-License-Identifier: GPL-2.0-only
"""What the appliance uses of Linux. Nothing here knows of the appliance."""
