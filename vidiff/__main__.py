"""`python -m vidiff COMMAND ...`, as `vidiff`."""

import sys

from vidiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
