"""Measure what a codec loses of held-out clips, and the ceiling that it puts on any score."""

import sys

from vidiff.cli.measure.codec import main

if __name__ == "__main__":
    sys.exit(main())
