"""Generate clips with a trained run."""

import sys

from vidiff.cli.use.generate import main

if __name__ == "__main__":
    sys.exit(main())
