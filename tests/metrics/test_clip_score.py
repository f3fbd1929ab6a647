from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from vidiff.metrics.clip_score import ClipScore

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of a few thousand random weights, with a tokenizer of single letters, as transformers saves them."""
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = [chr(n) for n in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


def test_score_is_the_cosine_that_the_model_gives(tiny: Path) -> None:
    score = ClipScore(tiny)
    video = torch.rand(2, 3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = score(video, ["red disc", "blue"])
    model = transformers.CLIPModel.from_pretrained(tiny).eval()
    tokens = transformers.CLIPTokenizer.from_pretrained(tiny)(["blue"], return_tensors="pt")
    mean, std = torch.tensor(ClipScore.MEAN).view(3, 1, 1), torch.tensor(ClipScore.STD).view(3, 1, 1)
    with torch.no_grad():
        logits = model(pixel_values=((video[1].transpose(0, 1) + 1) / 2 - mean) / std, **tokens).logits_per_image
    wanted = (100 * logits[:, 0] / model.logit_scale.exp()).clamp(min=0).mean()
    assert float(found[1]) == pytest.approx(float(wanted), rel=1e-4)
    assert found.shape == (2,)
    assert float(score(video[:1], ["red disc"])[0]) == pytest.approx(float(found[0]), rel=1e-4)  # padded before


def test_a_hash_tells_models_apart_wherever_they_lie(tiny: Path, tmp_path: Path) -> None:
    for name in ("moved", "other"):
        shutil.copytree(tiny, tmp_path / name)
    (tmp_path / "moved" / "README.md").write_text("a CLIP")
    known = ClipScore(tiny).sha256
    assert ClipScore(tmp_path / "moved").sha256 == known
    other = transformers.CLIPModel.from_pretrained(tiny)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    other.save_pretrained(tmp_path / "other")
    assert ClipScore(tmp_path / "other").sha256 != known


def test_mistakes_are_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 captions for clips"):
        ClipScore(tiny)(torch.zeros(2, 3, 1, 32, 32), ["a"] * 3)
    with pytest.raises(ValueError, match="holds no CLIP model"):
        ClipScore(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded as a CLIP model"):
        ClipScore(tmp_path)
