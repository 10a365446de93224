"""The pages of the guide as a reader follows them: see `follow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexlora.errors import ConfigError
from follow import ROOT, blocks, follow
from warm import Warm

pytestmark = pytest.mark.whole

PAGES = sorted((ROOT / "docs" / "guide").glob("*.md"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_a_page_runs_as_it_stands(page: Path, tmp_path: Path, warm: Warm) -> None:
    done = follow(page.read_text(encoding="utf-8"), tmp_path, warm)
    assert {"python", "sh", "toml"} & set(done) or page.stem == "limits", done


PAGE = """
<!-- file: c.toml -->
```toml
x = 1
```

```python
assert open("c.toml").read() == "x = 1\\n"
print("made 3 things")
open("made", "w").close()
```

<!-- output -->
```text
made 3   things
```

<!-- output: numbers differ -->
```text
…
made 7 things
```

```toml
[rule]
name = "fedit"
```

```sh
test -f made && echo done > also
flexlora --help | grep -q resume
```

<!-- shown: it would fail here -->
```sh
exit 1
```
"""


def test_following_a_page(tmp_path: Path, warm: Warm) -> None:
    assert follow(PAGE, tmp_path, warm) == [
        *("file", "python", "output", "output", "toml", "sh", "shown")
    ]
    assert (tmp_path / "also").read_text() == "done\n"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "wrong",
    [
        "```python\n1/0\n```\n",
        "```python\nimport sys; sys.exit(3)\n```\n",
        "```sh\nfalse\ntrue\n```\n",
        "```sh\nflexlora export nowhere --rank 2 --out x\n```\n",
        "```toml\n[training]\nrate = 1.0\n```\n",
        "```python\nprint('a 1')\n```\n<!-- output -->\n```text\na 2\n```\n",
        "```python\nprint('a 1')\n```\n<!-- output: numbers differ -->\n```text\nb 1\n```\n",
        "<!-- shown: later -->\n```sh\nfalse\n```\n",
        "<!-- ran -->\n```text\nx\n```\n",
        "```bash\ntrue\n```\n",
    ],
)
def test_a_block_that_fails_or_says_nothing_is_seen(tmp_path: Path, warm: Warm, wrong: str) -> None:
    assert blocks(wrong)
    with pytest.raises((AssertionError, ConfigError)):
        follow(wrong, tmp_path, warm)
