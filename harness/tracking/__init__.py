"""MLflow as an index of the results: a run for each network, below one of its study, which holds the report.

Parquet is the truth. Whatever MLflow lost (a deleted database, an empty server) the next `sync` writes again;
while it is away, nothing but the runs is missing. Only the driver writes, under a lock.
"""
