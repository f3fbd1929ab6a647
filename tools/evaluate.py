"""Score a trained run, or a folder of clips, with a page and a card that says how."""

import sys

from vidiff.cli.measure.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
