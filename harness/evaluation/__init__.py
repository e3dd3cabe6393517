"""A network on a set of images: what a worker does for the tables ``attack`` and ``evaluation``."""
