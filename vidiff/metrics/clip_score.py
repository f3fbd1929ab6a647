"""CLIP score: how well frames fit a caption, by a CLIP model in a local folder, as transformers saves it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vidiff.pixels import check_video
from vidiff.store.files import sha256

KINDS = (".json", ".txt", ".model", ".safetensors", ".bin")
"""Endings of the files of a folder that a model and its tokenizer are read from."""


class ClipScore:
    """Scores clips against captions.

    Args:
        folder: a CLIP model with its tokenizer and preprocessor. Nothing is downloaded.

    Attributes:
        sha256: of all the files that scores depend on.

    Raises:
        ValueError: transformers is not installed, or the folder holds no such model.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        try:
            from transformers import AutoTokenizer, CLIPModel
        except ImportError:
            raise ValueError("the CLIP score needs transformers: pip install 'vidiff[score]'") from None
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no CLIP model: give a folder with config.json, weights and tokenizer")
        try:
            self._model: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval().to(device)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{folder} cannot be loaded as a CLIP model: {str(error).splitlines()[0]}") from None
        self.size = int(self._model.config.vision_config.image_size)
        files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.suffix in KINDS}
        self.sha256 = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        self._device = device

    # As CLIP's own preprocessing has them
    MEAN = (0.48145466, 0.4578275, 0.40821073)
    STD = (0.26862954, 0.26130258, 0.27577711)

    @torch.no_grad()
    def __call__(self, video: Tensor, captions: Sequence[str]) -> Tensor:
        """100 times the cosine of picture and text, no less than 0, and the mean over frames (Hessel et al. 2021).

        Args:
            video: `(b, 3, f, h, w)` in [-1, 1].
            captions: one for each clip.

        Returns:
            `(b,)` float64.

        Raises:
            ValueError: more or fewer captions than clips.
        """
        check_video(video, "video", one=False)
        if len(captions) != len(video):
            raise ValueError(f"{len(captions)} captions for clips {tuple(video.shape)}: give one for each")
        frames = rearrange(video.float(), "b c f h w -> (b f) c h w")
        frames = F.interpolate(frames, (self.size, self.size), mode="bicubic", antialias=True).clamp(-1, 1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.MEAN, self.STD))
        pixels = ((frames + 1) / 2 - mean) / std
        words = self._tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt").to(self._device)
        output = self._model(pixel_values=pixels.to(self._device), **words)  # embeddings of unit length
        pictures = rearrange(output.image_embeds, "(b f) d -> b f d", b=len(video))
        cosine = torch.einsum("bfd, bd -> bf", pictures.double(), output.text_embeds.double())
        return (100 * cosine).clamp(min=0).mean(1).cpu()
