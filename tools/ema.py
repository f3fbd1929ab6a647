"""Make the weights' average of any width after the training, from the snapshots that train.ema_widths left."""

import sys

from vidiff.cli.make.ema import main

if __name__ == "__main__":
    sys.exit(main())
