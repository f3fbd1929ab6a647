"""Plot how unexpected each frame of a clip is to a trained run, in bits a latent number."""

import sys

from vidiff.cli.measure.surprise import main

if __name__ == "__main__":
    sys.exit(main())
