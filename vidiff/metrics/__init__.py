"""Tensors to numbers: distances, drift, motion, prediction, and the networks that see them."""
