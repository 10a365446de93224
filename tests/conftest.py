"""What all tests share: real data where it is, repeatable properties, shapes that are checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import shapes

if TYPE_CHECKING:
    from report.browser import Browser
    from warm import Warm

shapes.check("flexlora")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

settings.register_profile("flexlora", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("flexlora")


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the command line remembers of this user stays as it is."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """Nothing here outlives the machine: what waits for the disk itself is a tenth of a small run.

    Commands in processes of their own wait for it; tests that count on it see it called.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _leaves_the_checkout_as_it_is() -> Iterator[None]:
    """A test writes into folders of its own: what lies about would be committed one day."""
    before = _lying_in_the_checkout()
    yield
    new = _lying_in_the_checkout() - before
    assert not new, f"a test left {sorted(new)} in the checkout"


def _lying_in_the_checkout() -> set[str]:
    return {name for name in os.listdir(ROOT) if not name.startswith((".", "__pycache__"))}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and models, beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        message = "../shared is missing: real data and models are not here"
        if os.environ.get("REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Begins `flexlora` and `python` at once, for commands that need a process of their own."""
    from warm import Warm

    server = Warm()
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, for what is seen in one."""
    from report.browser import Browser, require_browser

    require_browser()
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.driver.quit()
