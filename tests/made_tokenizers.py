"""Small tokenizers of the kinds that models have, trained on a few sentences; no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "### Instruction:\nAdd the numbers.\n\n### Input:\n1 and 2\n\n### Response:\nnine nine nine",
    "user model assistant system green blue red eight nine ten is was. Yes, no? [INST] x [/INST]",
] * 20
SPECIAL = ["<unk>", "<s>", "</s>"]
LINES = pre_tokenizers.Split("\n", "isolated")  # SentencePiece keeps line breaks apart.
MARKS = ["<start_of_turn>", "<end_of_turn>", "<|end|>", "<|im_start|>", "<|im_end|>"]


def sentencepiece() -> Any:
    """Unigram over words with "▁" before them, one more at the beginning of a text; adds BOS."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [LINES, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    return _wrapped(tokenizer, trainer, "<s> $A")


def llama() -> Any:
    """BPE whose normaliser puts "▁" at the beginning of a text and for every blank; adds BOS."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [LINES, pre_tokenizers.Split("▁", "merged_with_next")]
    )
    trainer = trainers.BpeTrainer(vocab_size=220, special_tokens=SPECIAL, show_progress=False)
    return _wrapped(tokenizer, trainer, "<s> $A")


def bytes_bpe(texts: Sequence[str] = TEXTS) -> Any:
    """BPE over bytes, as GPT-2's and Llama 3's; adds nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    return _wrapped(tokenizer, trainer, "$A", texts)


def wordpiece() -> Any:
    """Words and "##" pieces between <s> and </s>, as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=SPECIAL, show_progress=False)
    return _wrapped(tokenizer, trainer, "<s> $A </s>")


KINDS: dict[str, Callable[[], Any]] = {
    "sentencepiece": sentencepiece,
    "llama": llama,
    "bytes": bytes_bpe,
    "wordpiece": wordpiece,
}


def _wrapped(tokenizer: Tokenizer, trainer: Any, pattern: str, texts: Sequence[str] = TEXTS) -> Any:
    tokenizer.train_from_iterator(texts, trainer)
    special = [(token, tokenizer.token_to_id(token)) for token in SPECIAL]
    tokenizer.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.add_special_tokens({"additional_special_tokens": MARKS})
    return made
