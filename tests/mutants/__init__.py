# SPDX-License-Identifier: GPL-2.0-only
"""Mutation check of the deciding modules: whether a test detects a change of one operator."""
