"""Extend a clip with a trained run: its frames come first, new ones follow."""

import sys

from vidiff.cli.use.extend import main

if __name__ == "__main__":
    sys.exit(main())
