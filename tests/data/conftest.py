from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # so that other processes find videos.py too
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="vidiff-tests-")  # where tables of tars go
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
