"""Which of two models do people prefer? Serves blind pairs of their clips on a local page, and counts the votes."""

import sys

from vidiff.cli.measure.study import main

if __name__ == "__main__":
    sys.exit(main())
