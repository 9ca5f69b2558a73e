"""Makes an environment for each client program: torch and transformers lie in one that all of them see, and share."""

import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCH = ("torch", "transformers", "accelerate", "sentencepiece", "protobuf")
"""What the shared environment has."""
CLIENTS: Mapping[str, tuple[str, ...]] = {
    "transformers": (),
    "lm-eval": ("lm-eval[hf]",),
    "peft": ("peft",),
    "ctranslate2": ("ctranslate2",),
    "mlx-lm": ("mlx[cpu]", "mlx-lm"),
}
"""What is installed on top of it for each, from the package index that pip is set up with."""
LLAMA_CPP = "node-llama-cpp"
"""The package for node.js that has llama.cpp built in it."""


class Clients:
    """Environments in one directory, each made when it is first asked for, and kept.

    Args:
        directory: where they go; those that are there are used as they are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def python(self, name: str) -> Path:
        """The interpreter of a client's environment."""
        shared, place = self._made("torch", TORCH), self.directory / name
        if not place.is_dir():
            venv.create(place, with_pip=True)
            packages = next(place.glob("lib/*/site-packages"))
            (packages / "shared.pth").write_text(str(next(shared.glob("lib/*/site-packages"))))
        return self._made(name, CLIENTS[name]) / "bin" / "python"

    def llama_cpp(self) -> Path:
        """A directory in which node.js finds node-llama-cpp."""
        place = self.directory / LLAMA_CPP
        if not (place / ".done").is_file():
            place.mkdir(parents=True, exist_ok=True)
            (place / "package.json").write_text('{"private": true}')
            # Its binary is in the package; without this it looks for a newer one elsewhere.
            run("npm", "install", "--silent", LLAMA_CPP, directory=place, NODE_LLAMA_CPP_SKIP_DOWNLOAD="true")
            (place / ".done").touch()
        return place

    def _made(self, name: str, packages: tuple[str, ...]) -> Path:
        place = self.directory / name
        if (place / ".done").is_file():
            return place
        if not place.is_dir():
            venv.create(place, with_pip=True)
        if packages:
            pip = (place / "bin" / "python", "-m", "pip", "install", "-q", "--no-compile")
            run(*pip, "-c", ROOT / "constraints.txt", *packages, directory=self.directory)
        (place / ".done").touch()
        return place


def run(*command: object, directory: Path, **variables: str) -> str:
    """Run a program that must succeed, with nothing of the checkout or this environment; gives what it printed."""
    ours = ("PYTHONPATH", "XLA_FLAGS", "VIRTUAL_ENV", "PYTHONHOME")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    clean |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(directory / "hf"), **variables}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=directory, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    print(done.stderr, file=sys.stderr)
    return done.stdout
