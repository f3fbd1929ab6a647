"""Edit clips with a trained run: every task gives some content and has the rest made."""

import sys

from vidiff.cli.use.edit import main

if __name__ == "__main__":
    sys.exit(main())
