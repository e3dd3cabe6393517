"""The bound of each image (paper III-A): its exact l1 distance to the nearest image of another class.

``shards`` cuts the work into pieces and joins their results to the rows of a table; a ``searcher`` holds the
images and works on one piece at a time. ``nearest`` compares all pairs. ``filter`` rules most of them out by
lower bounds: ``partition`` says which bounds and why they hold, ``learning`` fits them to the images at hand,
``scan`` is the filter in C for machines with a compiler, ``classes`` keeps the images in order of class for
all. ``nearest_gpu`` searches on a GPU, and ``growth`` foretells what a bound of many images costs.
(``harness.bound`` is the function that a program calls.)
"""
