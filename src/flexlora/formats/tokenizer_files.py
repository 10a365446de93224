"""The tokenizer that lies beside an adapter, where its training gave the model more tokens.

PEFT's auto classes widen the base model's embeddings by it, without which an adapter that holds
such embeddings whole does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flexlora.errors import AdapterError
from flexlora.formats.plain_file import read_plain

NAMES: Final = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "chat_template.jinja"),
)
LARGEST_BYTES: Final = 1 << 27  # Of one file; the largest known one takes 35 MB.


def tokenizer_beside(folder: Path) -> Mapping[str, bytes]:
    """Name of a tokenizer's file in the folder → what it holds; empty where there is none.

    Raises AdapterError for one that is no plain file, cannot be read, or is too large.
    """
    found = {}
    for name in NAMES:
        try:
            found[name] = read_plain(folder / name, LARGEST_BYTES)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            system = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else ""
            words = system or error
            raise AdapterError(
                f"{folder / name}, of the tokenizer beside the adapter, {words}; save the adapter "
                "again, or remove it"
            ) from error
    return found
