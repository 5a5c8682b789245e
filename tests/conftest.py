"""What every test shares: no network, fixed seeds, one torch thread a worker, and the way to the shared folder."""

from __future__ import annotations

import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read by the libraries when they are first imported, so it stands before any test module.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="disabled",
    MPLBACKEND="Agg",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores already
    _CACHE = None  # the controller made it and hands it on by HF_HOME
else:
    _CACHE = os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="prefixtune-tests-")

LOOPBACK = ("127.", "::1", "localhost")


def pytest_unconfigure() -> None:
    if _CACHE is not None:
        shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A test that reaches for another machine fails, also where a network happens to be up."""
    connect = socket.socket.connect

    def connect_here_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(host).startswith(LOOPBACK):
            raise OSError(f"a test tried to connect to {address!r}; the tests run offline")
        return connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here_only)
        yield


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same numbers in every order of the tests. Libraries that are not loaded are left unloaded."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data; the project does not carry it, and without it the test is skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("PREFIXTUNE_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared folder of models and data at {folder} (PREFIXTUNE_SHARED names another)")
    return folder
