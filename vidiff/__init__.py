"""Video diffusion models, trained from scratch on a folder of clips, that generate clips and extend them."""

from vidiff.pipeline.pipeline import Pipeline
from vidiff.video.reader import read_video
from vidiff.video.writer import write_video

__version__ = "0.1.0"
__all__ = ["Pipeline", "read_video", "write_video"]
