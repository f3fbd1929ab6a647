"""Protocols: from a run, or a folder of clips, to numbers, each with a card that says how."""
