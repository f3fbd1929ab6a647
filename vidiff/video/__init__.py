"""Bytes to frames and back: decord and PyAV read, imageio writes; times, sizes, pictures."""
