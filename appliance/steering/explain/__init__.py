# SPDX-License-Identifier: GPL-2.0-only
"""`explain`: what the datapath, or the model of it, does with a frame, and why."""
