"""Two things beside each other, as tables: two networks of a study, or the same studies in two folders."""
