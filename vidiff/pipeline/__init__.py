"""A trained run, ready to use: what it holds, and every way to ask it for clips."""
