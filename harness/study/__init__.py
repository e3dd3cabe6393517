"""What is run: a study's settings, how they are read, the cells that follow from them, what these cost."""
