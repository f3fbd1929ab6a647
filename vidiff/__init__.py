"""Video diffusion models, trained from scratch on a folder of clips, that generate clips and extend them."""

from vidiff.data.video import read_video, write_video
from vidiff.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "read_video", "write_video"]
