"""A hub on the loopback interface, huggingface_hub pointed at it, and checkpoints to send there."""

import time

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from tprog.huggingface import export_directory
from tprog.numpy import save
from tprog.parts import Parts, step_tensor
from tprog.schema import Progressive

from tests.cli.conftest import tritter  # noqa: F401
from tests.hub.server import TOKEN, running_hub
from tests.tprog.files import random_arrays, small_config


@pytest.fixture(scope="session")
def _server():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(_server, monkeypatch, tmp_path):
    """An empty hub; its client's cache is empty too, and nobody is logged in beyond a token of this hub."""
    _server.repositories.clear()
    _server.objects.clear()
    _server.faults.clear()
    _server.requests.clear()
    changes = {
        "ENDPOINT": _server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": _server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "no token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "no tokens"),
    }
    for name, value in changes.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    disable_progress_bars()
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits seconds before it tries again
    yield _server
    enable_progress_bars()
    close = getattr(huggingface_hub, "close_session", None)
    if close is not None:
        close()


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a few kilobytes with everything that one may hold, its weights in several files."""
    config = small_config()
    arrays = random_arrays(config)
    parts = Parts(
        optimizer={"step": step_tensor(3)} | {f"exp_avg.{name}": array for name, array in arrays.items()},
        fisher=random_arrays(config, 1),
        scheduler={"last": 3},
    )
    known = Progressive.of(config).with_fields(
        training_progress={"steps": 3, "tokens_seen": 96, "best_loss": 2.5}, ewc_config={"enabled": True}
    )
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    return save(
        tmp_path / "poet-2K-3.tprog",
        arrays,
        config,
        shard_size=5_000,
        progressive=known,
        parts=parts,
        tokenizer_from=tmp_path / "words",
    )


@pytest.fixture
def plain(checkpoint, tmp_path):
    """The same as a plain Hugging Face directory."""
    return export_directory(checkpoint, tmp_path / "plain")
