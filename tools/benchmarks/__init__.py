"""What `tools/benchmark.py` measures: a file for each kind of measurement, and what they share.

`timing` has clocks, ratios and what the machine itself can do, `networks` and `peers` have the sides that are compared,
`fresh` runs a function in a process of its own, and `page` fills docs/speed.md.
"""
