"""Look at every file of a data set once: what it holds, whether it can be read, and why not."""

import sys

from vidiff.cli.make.doctor import main

if __name__ == "__main__":
    sys.exit(main())
