"""Make the committed base model from nothing: generate text, train a tokenizer, pretrain.

PYTHONPATH=src python experiments/tiny_model/pretrain.py --out src/flexlora/models/tiny
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import islice
from pathlib import Path

import torch
from pretraining_text import documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT_SEED, HELD_OUT_SEED, WEIGHT_SEED = 1, 2, 3
VOCABULARY, CONTEXT, LENGTH = 1024, 512, 256
PAD, BOS, EOS = 0, 1, 2
# Share of documents in the form of the training prompt. The tokenizer sees some, so that a prompt
# costs few tokens; the model sees none: it is to know text, not instructions.
TOKENIZER_SHARE, MODEL_SHARE = 0.3, 0.0


def train_tokenizer(texts: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, one token per digit; encoding adds no special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(documents(TEXT_SEED, TOKENIZER_SHARE), texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def packed(tokenizer: PreTrainedTokenizerFast, seed: int, sequences: int) -> torch.Tensor:
    """Return documents, an EOS after each, cut into `sequences` rows of `LENGTH` tokens."""
    wanted = sequences * LENGTH
    stream: list[int] = []
    source = documents(seed, MODEL_SHARE)
    while len(stream) < wanted:
        for ids in tokenizer(list(islice(source, 2000)))["input_ids"]:
            stream += [*ids, EOS]
    return torch.tensor(stream[:wanted], dtype=torch.int16).view(sequences, LENGTH)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    """Mean loss per token, in nats."""
    model.eval()
    losses = [model(input_ids=part, labels=part).loss.item() for part in rows.long().split(32)]
    model.train()
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(WEIGHT_SEED)
    started = time.time()

    tokenizer = train_tokenizer(30_000)
    rows = packed(tokenizer, TEXT_SEED, args.steps * args.batch)
    held_out = packed(tokenizer, HELD_OUT_SEED, 128)
    print(f"text ready after {time.time() - started:.0f} s: {rows.numel():,} tokens", flush=True)

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.04,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = LlamaForCausalLM(config)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    for step in range(args.steps):
        warm = min(1.0, (step + 1) / 200)
        rate = args.lr * warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = rows[step * args.batch : (step + 1) * args.batch].long()
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}, {time.time() - started:.0f} s", flush=True)

    model.generation_config = GenerationConfig(
        do_sample=False, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS
    )
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    numbers = {
        "held_out_loss": round(held_out_loss(model, held_out), 4),
        "parameters": model.num_parameters(),
        "tokens": rows.numel(),
        "seconds": round(time.time() - started),
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
    }
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
