"""Video diffusion models, trained from scratch on a folder of clips, that generate clips and extend them.

What is named here is imported when it is first used: `vidiff --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.video.reader import read_video
    from vidiff.video.writer import write_video

__version__ = "0.1.0"
__all__ = ["Pipeline", "read_video", "write_video"]

_MODULES = {
    "Pipeline": "vidiff.pipeline.pipeline",
    "read_video": "vidiff.video.reader",
    "write_video": "vidiff.video.writer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
