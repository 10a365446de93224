"""Rows for skew.toml: words with one of 48 part-of-speech tags, out of Natural Instructions.

python experiments/smollm2/tags.py ../shared/data/natural_instructions runs/tags.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as parquet

TASK = "task584_udeps_eng_fine_pos_tagging"
QUESTION = "Which part of speech, as a Penn Treebank tag, is the word that the sentence asks about?"
LEAST = 5  # Rows of a tag: others are left out.


def main(folder: str, out: str) -> None:
    table = parquet.read_table(Path(folder) / "train.parquet", filters=[("task", "=", TASK)])
    rows = [(x["input"].strip(), x["output"][0].strip()) for x in table.to_pylist()]
    counts: dict[str, int] = {}
    for _, tag in rows:
        counts[tag] = counts.get(tag, 0) + 1
    kept = [(text, tag) for text, tag in dict.fromkeys(rows) if counts[tag] >= LEAST]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"question": QUESTION, "text": text, "tag": tag}) for text, tag in kept)
    Path(out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(kept)} rows of {len({tag for _, tag in kept})} tags: {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
