"""Speed, measured against well-known peers on the machine at hand; `benchmark.py --help` lists what can be measured.

`make bench` installs the peers and times a training step; `benchmark.py all` measures everything, and `benchmark.py
page` writes it into docs/speed.md. By hand: `pip install -e ".[bench]"`, then
`pip install --no-deps video-diffusion-pytorch imagen-pytorch`.
"""

import sys

from benchmarks.command import main  # the folder beside this file

if __name__ == "__main__":
    sys.exit(main())
