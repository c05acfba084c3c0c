# SPDX-License-Identifier: GPL-2.0-only
"""Mutation check of the modules that decide: does a test notice when one operator of them is another?"""
