"""Benchmarks: training throughput across mini-batch sizes, against the peers and against the machine's limit.

`grid` says what is trained, `peers` are those who train it, `process` gives each a process of its own, `runner` lets them
take turns, `record` is what was measured and how it is stored, `compare` finds what changed between two records; `table`,
`plots` and `page` show a record. The command is `fastnn bench`.
"""
