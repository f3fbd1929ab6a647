"""Continue held-out clips of a run by every strategy, and compare what becomes of them: a table, a page, pictures."""

import sys

from vidiff.cli.measure.compare import main

if __name__ == "__main__":
    sys.exit(main())
