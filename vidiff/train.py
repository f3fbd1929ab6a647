"""`python -m vidiff.train CONFIG [key=value ...] [--dry-run]`, as `vidiff train`, for torchrun."""

import sys

from vidiff.cli.make.train import main

if __name__ == "__main__":
    sys.exit(main())
