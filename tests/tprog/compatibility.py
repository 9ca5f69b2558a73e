"""Do older releases of transformers load a .tprog? Each is installed in an environment of its own.

    python -m tests.tprog.compatibility [--keep DIRECTORY] [VERSION ...]

Models of every family that a release knows are written in one file and sharded; the release loads them with
from_pretrained, and gives every tensor bit for bit and the same logits to 1e-5. About 1.2 GB of disk each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = {
    "4.36.2": ("llama", "mistral"),
    "4.57.3": ("llama", "qwen2", "qwen3", "mistral", "bitnet"),
    "5.23.0": ("llama", "qwen2", "qwen3", "mistral", "bitnet"),
}
TOLERANCE = 1e-5

# Runs in the other environment, where nothing of ours is installed.
LOAD = """
import hashlib, json, sys
import torch, transformers
result = {}
for path in sys.argv[1:]:
    # Version 4 would load float32 whatever the file holds; "auto" goes by the file.
    model = transformers.AutoModelForCausalLM.from_pretrained(path, torch_dtype="auto", attn_implementation="eager")
    tokens = torch.arange(1, 18)[None]
    with torch.no_grad():
        logits = model(tokens).logits.double().flatten().tolist()
    tensors = {
        name: hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }
    result[path] = {"logits": logits, "tensors": tensors}
print(json.dumps(result))
"""


def make_models(directory: Path) -> dict[str, list[Path]]:
    """Checkpoints of each family: both dtypes, tied and untied, one file and sharded."""
    import torch
    import tprog.torch

    from tests.support import odd_config, torch_model

    made: dict[str, list[Path]] = {}
    for family in VERSIONS["5.23.0"]:
        plain = {"ternary": False} if family == "bitnet" else {}
        for dtype, tied, shard_size in (
            ("float32", False, 10**9),
            ("float32", True, 20_000),
            ("bfloat16", False, 20_000),
        ):
            # Version 4.36 takes head_dim from hidden_size / num_heads only.
            config = odd_config(family, dtype=dtype, tie_embeddings=tied, head_dim=10, **plain)
            model = torch_model(config, dtype=getattr(torch, dtype))
            path = directory / f"{family}-{dtype}-{tied}-{shard_size}.tprog"
            made.setdefault(family, []).append(tprog.torch.save(path, model, config, shard_size=shard_size))
    return made


def environment(version: str, directory: Path) -> Path:
    """The interpreter of an environment with one release of transformers; made where it is not there yet."""
    place = directory / f"transformers-{version}"
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        numpy = "numpy<2" if version.startswith("4.") else "numpy"
        packages = [f"transformers=={version}", "torch==2.13.0", "safetensors", numpy]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def load(python: Path | str, paths: list[Path]) -> dict:
    """What one environment makes of the checkpoints."""
    command = [python, "-W", "ignore", "-c", LOAD, *map(str, paths)]
    quiet = {**os.environ, "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=quiet)
    return json.loads(done.stdout.splitlines()[-1])


def differences(got: dict, expected: dict) -> list[str]:
    """What one checkpoint's tensors and logits differ in."""
    names = got["tensors"].keys() ^ expected["tensors"].keys()
    lines = [f"{name} is in one only" for name in sorted(names) if "inv_freq" not in name]
    both = got["tensors"].keys() & expected["tensors"].keys()
    lines += [f"{name} differs" for name in sorted(both) if got["tensors"][name] != expected["tensors"][name]]
    scale = max(map(abs, expected["logits"]))
    gap = max(abs(a - b) for a, b in zip(got["logits"], expected["logits"], strict=True)) / scale
    return [*lines, f"logits differ by {gap:.1e}"] if gap > TOLERANCE else lines


def main() -> int:
    """Print what each release says of each family; the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", metavar="VERSION", default=list(VERSIONS))
    parser.add_argument("--keep", type=Path, help="where environments are made, and found again")
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        made = make_models(Path(temporary))
        expected = load(sys.executable, [path for paths in made.values() for path in paths])
        for version in options.versions:
            families = VERSIONS.get(version, VERSIONS["5.23.0"])
            python = environment(version, options.keep or Path(temporary))
            got = load(python, [path for family in families for path in made[family]])
            for path, found in got.items():
                problems = differences(found, expected[path])
                failures += bool(problems)
                print(f"{version}  {Path(path).name:36} {'; '.join(problems) or 'equal'}", flush=True)
    return failures


if __name__ == "__main__":
    raise SystemExit(main())
