"""Measuring what a process holds."""

FREED = {"MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_ARENA_MAX": "1"}
"""Environment of a process that gives memory back to the system as soon as it lets go of it.

Without it glibc raises the size from which it does so by itself, and keeps tens of MB or none by the order of calls.
"""
