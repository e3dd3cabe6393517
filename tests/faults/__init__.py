"""Faults: a study is run under a seeded series of kills, full disks, damaged files and the like, and must end
in the same tables.

`series` is the order of what happens, `kinds` what can happen, `tables` what must be the same afterwards.
`python -m faults` from the tests folder (`make faults`) is the long run; tests/test_faults.py a short one.
"""
