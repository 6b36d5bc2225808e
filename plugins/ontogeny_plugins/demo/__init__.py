"""Real text for trials, tests and the guide: `pkg://ontogeny_plugins.demo/data/general.jsonl.gz`.

`LICENSES.md` beside this file lists the files, their columns, their sources and their licences.
"""
