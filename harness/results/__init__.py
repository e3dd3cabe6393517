"""Results: files that are there whole or not at all, each named by what produced it, every byte checked.

A cell is one piece of work. Its rows are a Parquet file in the folder of its table (records, cell_file), its
weights or images a safetensors file below ``tensors/``; a hash of all that determines it names both (cells).
They lie in a local folder or in an object store (storage, store), beside what is known of whole studies
(studies) and of trainings under way (checkpoints). Nothing here computes: results are read back without
torch, Ray or settings.
"""
