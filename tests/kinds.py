"""Tokenizers of the kinds that exist, trained on a few lines in a second: byte-level, Gemma style, GPT-2 style."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mmenc.data.vocabulary import frame, special_tokens, train_bpe

TEXTS = {
    "eng_Latn": "All human beings are born free and equal in dignity and rights. They are endowed with reason, 1948 and 12.5!",
    "rus_Cyrl": "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью.",
    "hin_Deva": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि मिली है।",
    "arb_Arab": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميراً وعليهم أن يعامل بعضهم بعضاً.",
    "jpn_Jpan": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "amh_Ethi": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው። የተፈጥሮ ማስተዋልና ሕሊና ስላለው",
}
CODE = "def f(x):\n    if x > 10:\n        return {'a': [1, 2]}\n\treturn None\n"


def lines(*languages: str) -> list[str]:
    """The texts of some languages (all without a name), a few times."""
    return [TEXTS[t] for t in languages or TEXTS] * 4


def byte_level(vocab_size: int = 700, prefix_space: bool = False, texts: Iterable[str] = ()) -> Tokenizer:
    return train_bpe(list(texts) or [*lines(), CODE * 4], vocab_size, 2, prefix_space)


def gemma_style(vocab_size: int = 900, texts: Iterable[str] = ()) -> Tokenizer:
    """▁ for a space, merges of characters, `<0xE1>` for what is no entry: the layout of Gemma 2 and mmBERT."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    specials = special_tokens()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 256, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(list(texts) or [*lines(), CODE * 4], trainer)
    spec = json.loads(tokenizer.to_str())
    vocab = spec["model"]["vocab"]
    spec["model"]["vocab"] = vocab | {f"<0x{i:02X}>": len(vocab) + i for i in range(256)}
    spec["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return frame(Tokenizer.from_str(json.dumps(spec, ensure_ascii=False)))


def gpt2_style(vocab_size: int = 700, texts: Iterable[str] = (), prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special_tokens(), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(list(texts) or [*lines(), CODE * 4], trainer)
    return frame(tokenizer)


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    """tokenizer.json in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"
