"""What a training would take, before it is launched: parameters, memory by part, FLOPs, time and cost."""

import sys

from vidiff.cli.make.plan import main

if __name__ == "__main__":
    sys.exit(main())
