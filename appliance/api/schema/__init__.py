# SPDX-License-Identifier: GPL-2.0-only
"""What the methods of the control socket answer, as types: the published schema is made of them (`bypass api schema`).

A promise to clients. A field that an answer has and its type does not fails tests/datapath/test_api_schema.py, which
holds the answers of a running bypassd against them. Imported when the schema is asked for; answers are not checked at
run time. A new method has a line in `table.py`.
"""
