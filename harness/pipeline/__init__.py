"""A study from images to results, step by step, reading as the paper does.

Each step makes the cells that are missing and leaves the others alone; a cell is written as soon as it is
complete. So any command may be killed at any moment and run again. ``steps`` lists them.
"""
