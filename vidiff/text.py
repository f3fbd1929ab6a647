"""Captions to what a network reads: numbers of words, which it embeds itself, or the embeddings of a language model."""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from vidiff.store.files import draft_of

Encoded = tuple[Tensor, Tensor]  # text, and which tokens count: as `vidiff.diffusion.condition.Condition` has them
FORMAT = 1  # of cached embeddings: goes up with any change to how they are made


class TextEncoder(Protocol):
    """What turns captions into text that a network reads.

    Attributes:
        dim: width of a token in the network.
        words: size of the vocabulary where the network embeds the words itself; else 0.
    """

    @property
    def dim(self) -> int: ...

    @property
    def words(self) -> int: ...

    def learn(self, captions: Sequence[str]) -> None:
        """Take from the training captions what the encoder needs to know of them."""

    def facts(self) -> dict[str, Any]:
        """What it has learned, as options of its own to build it again with."""

    def fits(self, caption: str) -> bool:
        """Whether a caption is read as a whole."""

    def __call__(self, captions: Sequence[str | None], lenient: bool = False) -> Encoded:
        """
        Args:
            captions: None is a sample without text.
            lenient: leave out what cannot be read, as befits the captions of a data set, rather than refuse it.

        Returns:
            text `(b, n, d)` or, of numbers, `(b, n)`, and which tokens count, bool `(b, n)`.

        Raises:
            ValueError: a caption that is empty, too long, or of unknown words.
        """


# what word processors and phones put in place of what keyboards have
TYPED = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032\uff07\u00b4`", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00ad\u2060\ufeff"),  # soft hyphens, and marks that join words: nothing
    }
)
DASHES = str.maketrans(dict.fromkeys("\u2012\u2013\u2014\u2015\u2212", "-"))


def plain(text: str) -> str:
    """A text as a keyboard has it: straight quotes, hyphens, single spaces, and every accent within its letter."""
    return " ".join(unicodedata.normalize("NFC", text).translate(TYPED).translate(DASHES).split())


WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def split_words(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation, however apostrophes and accents are written."""
    return WORD.findall(unicodedata.normalize("NFC", caption).translate(TYPED).lower())


def readings(caption: str) -> Iterator[list[str]]:
    """The words of a caption, and then as others may have split it: captions as they stand, dashes, and parts."""
    yield split_words(caption)
    yield WORD.findall(caption.lower())
    yield split_words(caption.translate(DASHES))
    for form in ("NFC", "NFD"):
        yield re.findall(r"[^\W_]+", unicodedata.normalize(form, caption).lower())


class Words:
    """Whole words, numbered; the network learns their embeddings, so nothing has to be downloaded.

    Args:
        dim: width of a word's embedding.
        vocabulary: known words; by default, those of the training captions.
        length: most words of a caption; by default, as many as the longest training caption has.

    Raises:
        ValueError: a width that is not even and positive, or a length below 0.
    """

    def __init__(self, dim: int = 128, vocabulary: Sequence[str] = (), length: int = 0) -> None:
        if dim < 2 or dim % 2:
            raise ValueError(f"text.dim is {dim}; give an even number from 2 on")
        if length < 0:
            raise ValueError(f"text.length is {length}; give 1 word or more, or 0 for as many as the captions have")
        self.dim, self.vocabulary, self.length = dim, list(vocabulary), length

    @property
    def words(self) -> int:
        return len(self.vocabulary)

    def learn(self, captions: Sequence[str]) -> None:
        """Take vocabulary and length from the training captions, as far as they were not given."""
        split = [split_words(caption) for caption in captions]
        self.vocabulary = self.vocabulary or sorted({word for words in split for word in words})
        self.length = self.length or max(map(len, split), default=0)
        if not self.vocabulary:
            raise ValueError(f"the captions hold no words, such as {captions[0]!r}" if captions else "no captions")

    def facts(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "length": self.length}

    def fits(self, caption: str) -> bool:
        words = self.read(caption)
        return 0 < len(words) <= self.length and set(words) <= set(self.vocabulary)

    def read(self, caption: str) -> list[str]:
        """The words of a caption, in the first reading of which the fewest are unknown."""
        known = set(self.vocabulary)
        return min(readings(caption), key=lambda words: (not words, len(set(words) - known)))

    def unknown(self, captions: Sequence[str]) -> list[str]:
        """Words of captions that the vocabulary lacks."""
        return sorted({word for caption in captions for word in self.read(caption)} - set(self.vocabulary))

    def __call__(self, captions: Sequence[str | None], lenient: bool = False) -> Encoded:
        """Numbers `(b, length)` int64, 0 where no word is, and a mask; as `TextEncoder`."""
        text = torch.zeros(len(captions), self.length, dtype=torch.int64)
        mask = torch.zeros(len(captions), self.length, dtype=torch.bool)
        numbers = {word: number for number, word in enumerate(self.vocabulary)}
        for row, caption in enumerate(captions):
            if caption is None:
                continue
            words = self.read(caption)
            if lenient:
                words = [word for word in words if word in numbers][: self.length]
            else:
                self._check(caption, words)
            text[row, : len(words)] = torch.tensor([numbers[word] for word in words], dtype=torch.int64)
            mask[row, : len(words)] = True
        return text, mask

    def spell(self, text: Tensor, mask: Tensor) -> list[str]:
        """The captions that text was made of, as their words in lower case."""
        rows = zip(text.tolist(), mask.tolist(), strict=True)
        return [" ".join(self.vocabulary[n] for n, counts in zip(*row, strict=True) if counts) for row in rows]

    def _check(self, caption: str, words: list[str]) -> None:
        if not words:
            raise ValueError(f"text is {caption!r}, without a word: say what to show, or leave it out")
        for word in words:
            if word not in self.vocabulary:
                near = difflib.get_close_matches(word, self.vocabulary, n=3, cutoff=0.3) or self.vocabulary[:3]
                raise ValueError(
                    f"no word {word!r} of {caption!r} in the captions that the model was trained on; the nearest of "
                    f"{len(self.vocabulary)} are {', '.join(near)}"
                )
        if len(words) > self.length:
            raise ValueError(
                f"{caption!r} has {len(words)} words; the longest caption that the model was trained on has "
                f"{self.length}: be briefer"
            )


class HuggingFace:
    """The last hidden states of a frozen language model, such as T5's encoder, CLIP's text model or BERT.

    Needs the package transformers, which `pip install 'vidiff[text]'` brings.

    Args:
        model: a local folder, or a name on the Hugging Face hub.
        length: most tokens of a caption.
        device: where the language model runs.
        weights: `fingerprint` of the folder when captions were learned; "" for any.

    Raises:
        ValueError: a length below 1; when it is first asked, a model that cannot be loaded, or that is another.
    """

    words = 0

    def __init__(self, model: str, length: int = 64, device: str = "cpu", weights: str = "") -> None:
        if length < 1:
            raise ValueError(f"text.length is {length}; give 1 token or more")
        self.model, self.length, self.device, self.weights = model, length, device, weights
        self._loaded: tuple[Any, Any] | None = None

    @property
    def dim(self) -> int:
        return self([None], lenient=True)[0].shape[-1]

    def learn(self, captions: Sequence[str]) -> None:
        """Note which model it is; it knows its words already."""
        self.weights = self.weights or self.fingerprint()

    def facts(self) -> dict[str, Any]:
        return {"weights": self.weights} if self.weights else {}

    def fingerprint(self) -> str:
        """A hash of samples of a folder's files, which tells other weights in a moment; "" for a name on the hub."""
        files, digest = self._files(), hashlib.sha256()
        for path in files:
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with path.open("rb") as file:
                for start in range(0, size, max(1 << 12, size >> 6)):
                    file.seek(start)
                    digest.update(file.read(1 << 12))
        return digest.hexdigest() if files else ""

    def fits(self, caption: str) -> bool:
        return bool(caption.strip()) and len(self._parts()[0](caption)["input_ids"]) <= self.length

    def digest(self) -> str:
        """A hash of all that embeddings depend on, besides the captions: a folder's content, or a hub name's commit."""
        digest = hashlib.sha256(f"{FORMAT} {self.length} ".encode())
        if Path(self.model).is_dir():
            for path in self._files():
                digest.update(path.name.encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        else:
            config = self._parts()[1].config
            digest.update(f"{self.model} {getattr(config, '_commit_hash', None)}".encode())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, captions: Sequence[str | None], lenient: bool = False) -> Encoded:
        """Embeddings `(b, n, d)` float32, n being the longest caption's, 0 past the end of one; as `TextEncoder`."""
        tokenizer, model = self._parts()
        rows = []
        for caption in captions:
            if caption is not None and not caption.strip() and not lenient:
                raise ValueError(f"text is {caption!r}: say what to show, or leave it out")
            numbers = [] if caption is None else tokenizer(caption)["input_ids"]
            if len(numbers) > self.length and not lenient:
                raise ValueError(f"{caption!r} has {len(numbers)} tokens; the model reads {self.length}: be briefer")
            rows.append(tokenizer(caption, truncation=True, max_length=self.length)["input_ids"] if numbers else [])
        longest = max([1, *map(len, rows)])
        padding = tokenizer.pad_token_id or 0
        text = torch.tensor([row + [padding] * (longest - len(row)) for row in rows]).to(model.device)
        mask = torch.tensor([[i < len(row) for i in range(longest)] for row in rows]).to(model.device)
        seen = mask | ~mask.any(1, keepdim=True)  # a row of nothing but padding has no softmax
        states = model(input_ids=text, attention_mask=seen.long()).last_hidden_state.float()
        return states.masked_fill(~mask[..., None], 0.0).cpu(), mask.cpu()

    def _files(self) -> list[Path]:
        """The files of a folder that its embeddings depend on; none for a name on the hub."""
        kinds = (".json", ".txt", ".model", ".safetensors", ".bin")
        folder = Path(self.model)
        return sorted(path for path in folder.iterdir() if path.suffix in kinds) if folder.is_dir() else []

    def _parts(self) -> tuple[Any, Any]:
        """Tokenizer and model, loaded when first asked for. Raises ValueError where they cannot be."""
        if self._loaded is None:
            try:
                from transformers import AutoModelForTextEncoding, AutoTokenizer
            except ImportError:
                raise ValueError(
                    "text encoders of Hugging Face need the package transformers: pip install 'vidiff[text]', or train "
                    "with text.name=words, which needs nothing"
                ) from None
            try:
                # From elsewhere no pickle is taken: a run that somebody shared may name any model.
                safe = {} if Path(self.model).is_dir() else {"use_safetensors": True}
                tokenizer = AutoTokenizer.from_pretrained(self.model)
                model = AutoModelForTextEncoding.from_pretrained(self.model, dtype=torch.float32, **safe)
            except (OSError, ValueError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ValueError(
                    f"text.model is {self.model!r}, which transformers cannot load as a text encoder ({reason}): give "
                    "a folder with its weights, configuration and tokenizer, or its name on the Hugging Face hub"
                ) from None
            if self.weights and self.fingerprint() not in ("", self.weights):
                raise ValueError(
                    f"{self.model} holds another language model than the one whose text this run learned to read: put "
                    "that back, or train another run, by another name"
                )
            self._loaded = tokenizer, model.to(self.device).eval().requires_grad_(False)
        return self._loaded


TEXTS = {"words": Words, "huggingface": HuggingFace}


def encode_captions(encoder: TextEncoder, captions: Sequence[str], folder: Path, batch: int = 64) -> Encoded:
    """The text of a data set's captions, `encoder(captions, lenient=True)`, a language model's from a cache.

    Args:
        folder: the cache goes there, as `text-<hash of model and captions>.safetensors`.

    Raises:
        ValueError: as the encoder.
    """
    if not isinstance(encoder, HuggingFace):
        return encoder(captions, lenient=True)
    lines = "\n".join(repr(caption) for caption in captions)
    key = hashlib.sha256(f"{encoder.digest()}\n{lines}".encode()).hexdigest()
    path = folder / f"text-{key[:16]}.safetensors"
    if not path.is_file():
        starts = tqdm(range(0, len(captions), batch), desc="captions", unit="batch")
        parts = [encoder(captions[start : start + batch], lenient=True) for start in starts]
        longest = max(text.shape[1] for text, _ in parts)
        tensors = {
            "text": torch.cat([torch.nn.functional.pad(x, (0, 0, 0, longest - x.shape[1])) for x, _ in parts]),
            "mask": torch.cat([torch.nn.functional.pad(mask, (0, longest - mask.shape[1])) for _, mask in parts]),
        }
        with draft_of(path) as draft:
            save_file(tensors, draft)
    found = load_file(path)
    return found["text"], found["mask"]
