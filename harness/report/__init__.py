"""What people look at, made from the Parquet files alone: SQL views, the paper's tables, and their printing.

Any table can be made again at any time, from any copy of the results folder, without a network, an image,
an accelerator or the settings classes of the day.
"""
