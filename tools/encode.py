"""Encode the latents that a model is trained on, before its training or beside others that do."""

import sys

from vidiff.cli.make.encode import main

if __name__ == "__main__":
    sys.exit(main())
