"""Tokenizer: trained on temperature-sampled text of the train split, taken over, or taken over and extended; then proven.

Decisions: the sample is drawn in two passes over the text (sizes, then the chosen documents), so memory is that of the
trainer and not of the corpus (survey.py); what a vocabulary is made of is in vocabulary.py, how one grows in extend.py, what
it must show in fertility.py. Special ids are 0 to 4 as in mmBERT's vocabulary (Gemma 2's); a tokenizer with others is
refused, because masking, packing and the model's config rely on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

from mmenc.artifact import Json, sha256_file, write_json
from mmenc.data.encoders import load
from mmenc.data.extend import FILE, extend
from mmenc.data.fertility import measure
from mmenc.data.shards import languages
from mmenc.data.survey import draw, save_splitter, texts
from mmenc.data.tokens import SPECIALS
from mmenc.data.vocabulary import frame, read, sample_quota, spec_of, style, token_bytes, train_bpe, train_unigram
from mmenc.errors import Refused, nearest
from mmenc.job import Job

__all__ = ["load", "run", "sample_quota", "token_bytes", "train_bpe"]


class _Sample(Iterable[str]):
    """Texts of a sample, as often as they are asked for, read from disk."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __iter__(self) -> Iterator[str]:
        return (text for _, text in texts(self.files))


def _quota(job: Job) -> Callable[[dict[str, int]], dict[str, int]]:
    settings = job.recipe.tokenizer
    return lambda sizes: sample_quota(sizes, settings.temperature, settings.sample_bytes)


def _train(job: Job, clean: Path, splits: Path) -> tuple[Tokenizer, Json]:
    """Train on a sample of the train split; also the bytes per language that were used."""
    settings = job.recipe.tokenizer
    files, nbytes = draw(job, clean, splits, _quota(job))
    job.say(f"training {settings.vocab_size:,} entries on {sum(nbytes.values()) / 1e6:.1f} MB of {len(nbytes)} languages")
    train = train_bpe if settings.kind == "bpe" else train_unigram
    tokenizer = train(_Sample(files), settings.vocab_size, settings.min_frequency, settings.prefix_space)
    if tokenizer.get_vocab_size() != settings.vocab_size:
        raise Refused(
            f"tokenizer.vocab_size: {settings.vocab_size} asked for, the text gives {tokenizer.get_vocab_size()} entries; "
            f"lower it, or bring more text"
        )
    return tokenizer, nbytes


def _adopt(job: Job) -> Tokenizer:
    """Take over a tokenizer: the special ids must be ours, and no text may be lost (an alphabet of bytes, or byte fallback)."""
    path = job.raw["tokenizer.source"] / "tokenizer.json"
    tokenizer = read(path)
    wrong = [f"{t} is {tokenizer.token_to_id(t)}" for i, t in enumerate(SPECIALS) if tokenizer.token_to_id(t) != i]
    if wrong:
        raise Refused(f"{path}: expected {', '.join(SPECIALS)} as ids 0 to 4, found {', '.join(wrong)}")
    if not style(spec_of(tokenizer)):
        raise Refused(f"{path}: expected a byte-level tokenizer or one with byte fallback; without them text is lost as <unk>")
    grown = job.recipe.tokenizer.extend.entries if job.recipe.tokenizer.extend else 0
    if (found := tokenizer.get_vocab_size() + grown) != job.recipe.tokenizer.vocab_size:
        parts = f" ({tokenizer.get_vocab_size()} + {grown} of tokenizer.extend)" if grown else ""
        raise Refused(f"tokenizer.vocab_size: {path} has {found} entries{parts}, the recipe {job.recipe.tokenizer.vocab_size}")
    job.say(f"took over {path}, {tokenizer.get_vocab_size():,} entries")
    return frame(tokenizer)


def _extend(job: Job, tokenizer: Tokenizer, clean: Path, splits: Path) -> tuple[Tokenizer, Json]:
    """Let a tokenizer that was taken over grow on the text of new languages; write what the new tokens were before."""
    settings = job.recipe.tokenizer
    assert settings.extend is not None
    known = languages(clean)
    if missing := next((t for t in settings.extend.languages if t not in known), None):
        raise Refused(f"tokenizer.extend.languages: there is no text in {missing!r}{nearest(missing, known)}")
    files, nbytes = draw(job, clean, splits, _quota(job), settings.extend.languages)
    base = tokenizer.get_vocab_size()
    grown, pieces = extend(tokenizer, _Sample(files), settings.extend.entries, settings.min_frequency)
    source = sha256_file(job.raw["tokenizer.source"] / "tokenizer.json")
    write_json(job.out / FILE, {"base": base, "base_sha256": source, "pieces": pieces})
    job.say(f"{len(pieces):,} entries more from {sum(nbytes.values()) / 1e6:.1f} MB of {', '.join(settings.extend.languages)}")
    return frame(grown), nbytes


def save_fast(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer of ours as transformers loads it."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        bos_token="<bos>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        mask_token="<mask>",  # noqa: S106
        cls_token="<bos>",  # noqa: S106
        sep_token="<eos>",  # noqa: S106
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.save_pretrained(folder)


def run(job: Job) -> Json:
    """Train or take over, prove the round trip, save as a Hugging Face fast tokenizer."""
    settings, clean = job.recipe.tokenizer, job.inputs["clean"].local()
    if "tokenizer.compare" in job.raw:
        read(job.raw["tokenizer.compare"])  # before hours of training, not after
    splits = save_splitter(job, clean)
    nbytes: Json = {}
    old: Path | None = None
    if "tokenizer.source" in job.raw:
        tokenizer = _adopt(job)
        if settings.extend:
            old = job.resume / "old" / "tokenizer.json"
            old.parent.mkdir(parents=True, exist_ok=True)
            tokenizer.save(str(old))
            tokenizer, nbytes = _extend(job, tokenizer, clean, splits)
    else:
        tokenizer, nbytes = _train(job, clean, splits)
    save_fast(tokenizer, job.out)
    found = measure(job, clean, splits, old)
    table = found["languages"]
    write_json(job.out / "fertility.json", table)
    mean = sum(r["bytes_per_token"] for r in table.values()) / max(1, len(table))
    exact = all(r["exact_share"] == 1 for r in table.values())
    came = "every held-out document comes back byte for byte" if exact else "some held-out documents come back normalised"
    job.say(f"{mean:.2f} bytes per token over {len(table)} languages; {came}")
    return {"vocab_size": settings.vocab_size, "kind": spec_of(load(job.out))["model"]["type"], "sample_bytes": nbytes, **found}
