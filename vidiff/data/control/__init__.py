"""The video beside each clip of a data set: its depth, its edges, another camera."""
