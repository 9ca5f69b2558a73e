"""The empirical Fisher information of a .tprog in transformers, by PyTorch and by libraries for it, against ours.

What each library can do with a transformers llama: laplace-torch all of it; BackPACK the linear layers and
embeddings, not RMSNorm; nngeometry none of it as it is, since its linear layers take no sequences, but convolutions
of width 1 with the same weights, which take them.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import tprog.flax
import transformers
from torch import nn
from tprog import hf_tensors, param_specs
from tprog.tree import flatten

from tests.continual.references import off, tiny_config
from tests.support import random_params, random_tokens
from tritter_jax.continual import estimate_fisher, language_logits, mean_fisher, windows_batch

pytestmark = pytest.mark.usefixtures("x64")

CONFIG = tiny_config(hidden_size=12, head_dim=6, dtype="float32")
WINDOWS = random_tokens(CONFIG, (5, 9))

Squares = dict[str, torch.Tensor]
"""Sum over sequences of squared gradients, by the name of the parameter in transformers."""

Measure = Callable[[torch.Tensor, torch.Tensor], Squares]
"""From token ids [B, S] and the labels [B, S] that follow them."""


class Likelihood(nn.Module):
    """Logits [B, V, S], as nn.CrossEntropyLoss takes them, of token ids [B, S] or embeddings [B, S, D]."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A mask in four dimensions is used as it is: making one looks at values, which torch.func.vmap forbids.
        mask = torch.full((x.shape[1],) * 2, float("-inf"), dtype=self.model.dtype).triu(1)
        given = {"inputs_embeds" if x.is_floating_point() else "input_ids": x}
        logits = self.model(**given, attention_mask=mask.expand(len(x), 1, -1, -1), use_cache=False).logits
        return logits.movedim(-1, 1)


def peer(module: str) -> Any:
    """A library's module; skips the test where the library is not installed."""
    return pytest.importorskip(module, reason=f"{module.partition('.')[0]} is not installed")


def gradients(model: nn.Module) -> Squares:
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def by_loop(model: nn.Module) -> Measure:
    """One sequence at a time, in plain PyTorch."""

    def measure(inputs: torch.Tensor, labels: torch.Tensor) -> Squares:
        squares = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
        for row, due in zip(inputs, labels, strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(model(row[None]).logits[0], due, reduction="sum").backward()
            for name, gradient in gradients(model).items():
                squares[name] += gradient**2
        return squares

    return measure


def by_laplace(model: nn.Module) -> Measure:
    curvature = peer("laplace.curvature").CurvlinopsEF(Likelihood(model), "classification")

    def measure(inputs: torch.Tensor, labels: torch.Tensor) -> Squares:
        _, diagonal = curvature.diag(inputs, labels)
        parts = diagonal.split([each.numel() for each in model.parameters()])
        return {name: part.view_as(each) for (name, each), part in zip(model.named_parameters(), parts, strict=True)}

    return measure


def by_backpack(model: Any) -> Measure:
    backpack, extensions = peer("backpack"), peer("backpack.extensions")
    modules: dict[str, Any] = {
        name: each for name, each in model.named_modules() if isinstance(each, nn.Linear | nn.Embedding)
    }
    for each in modules.values():
        backpack.extend(each)

    def measure(inputs: torch.Tensor, labels: torch.Tensor) -> Squares:
        model.zero_grad()
        with backpack.backpack(extensions.SumGradSquared()):
            nn.functional.cross_entropy(Likelihood(model)(inputs), labels, reduction="sum").backward()
        return {f"{name}.weight": each.weight.sum_grad_squared for name, each in modules.items()}

    return measure


class Pointwise(nn.Module):
    """A linear layer over sequences as the convolution of width 1 that computes the same."""

    def __init__(self, linear: Any):
        super().__init__()
        self.conv = nn.Conv1d(linear.in_features, linear.out_features, 1, bias=False)
        self.conv.weight = nn.Parameter(linear.weight.detach()[..., None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


def by_nngeometry(model: Any) -> Measure:
    backend, collection, matrices = (peer(f"nngeometry.{part}") for part in ("backend", "layercollection", "object"))
    names = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
    for name in names:
        model.set_submodule(name, Pointwise(model.get_submodule(name)))
    chosen = collection.LayerCollection()
    for name in names:
        chosen.add_layer_from_model(model, model.get_submodule(f"{name}.conv"))

    def log_p(rows: torch.Tensor, due: torch.Tensor) -> torch.Tensor:
        return -nn.functional.cross_entropy(Likelihood(model)(rows), due, reduction="none").sum(1, keepdim=True)

    def measure(inputs: torch.Tensor, labels: torch.Tensor) -> Squares:
        generator = backend.TorchHooksJacobianBackend(layer_collection=chosen, model=model, function=log_p)
        # It asks for gradients of what goes in, which token ids have none of.
        embedded = model.get_input_embeddings()(inputs).detach()
        pairs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(embedded, labels), batch_size=4)
        diagonal = matrices.PMatDiag(generator=generator, examples=pairs).get_diag() * len(inputs)
        parts = diagonal.split([layer.numel() for layer in chosen.layers.values()])
        return {
            f"{name}.weight": part.view_as(model.get_submodule(name).conv.weight)[..., 0]
            for name, part in zip(names, parts, strict=True)
        }

    return measure


PEERS: dict[str, tuple[Callable[[Any], Measure], int]] = {
    "loop": (by_loop, 12),
    "laplace-torch": (by_laplace, 12),
    "backpack": (by_backpack, 9),
    "nngeometry": (by_nngeometry, 8),
}
"""What each computes, and how many of our twelve parameters it reaches."""


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """Our parameters in transformers, by way of a .tprog, in float64."""
    tprog.flax.save(tmp_path / "x.tprog", random_params(CONFIG), CONFIG)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x.tprog", attn_implementation="eager")
    wavelengths = loaded.model.rotary_emb.inv_freq
    loaded = loaded.double().eval()
    loaded.model.rotary_emb.inv_freq = wavelengths  # stays float32, as from_pretrained leaves it
    return loaded


@lru_cache
def ours() -> dict[str, np.ndarray]:
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), random_params(CONFIG))
    total = estimate_fisher(language_logits(CONFIG), params, [windows_batch(WINDOWS)], estimator="empirical")
    return {".".join(path): np.asarray(leaf) for path, leaf in flatten(mean_fisher(total)).items()}


def in_our_layout(squares: Squares) -> dict[str, np.ndarray]:
    """Per token, like `ours`, for the parameters there are."""
    found: dict[str, list[np.ndarray]] = {}
    for tensor in hf_tensors(CONFIG):
        if tensor.name in squares:
            leaf = tensor.spec.from_hf(squares[tensor.name].detach().numpy())
            found.setdefault(".".join(tensor.spec.path), []).append(leaf / WINDOWS[:, 1:].size)
    stacked = {".".join(spec.path): spec.stacked for spec in param_specs(CONFIG)}
    return {path: np.stack(leaves) if stacked[path] else leaves[0] for path, leaves in found.items()}


@pytest.mark.parametrize("name", PEERS)
def test_empirical_is_what_others_compute_from_the_same_file(name, model):
    prepare, reached = PEERS[name]
    previous = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # nngeometry makes its buffers of it
        ids = torch.from_numpy(WINDOWS).long()
        with warnings.catch_warnings(action="ignore"):
            found = in_our_layout(prepare(model)(ids[:, :-1], ids[:, 1:]))
    finally:
        torch.set_default_dtype(previous)
    assert len(found) == reached
    for path, due in found.items():
        assert due.max() > 0, path
        # transformers computes its rotary wavelengths in float32, which small entries of a leaf feel most.
        np.testing.assert_allclose(ours()[path], due, rtol=1e-5, atol=1e-6 * due.max(), err_msg=path)
        assert off(ours()[path], due) < 1e-5, path


def test_the_square_of_the_batchs_gradient_is_none_of_these(model):
    ids = torch.from_numpy(WINDOWS).long()
    nn.functional.cross_entropy(Likelihood(model)(ids[:, :-1]), ids[:, 1:], reduction="sum").backward()
    found = in_our_layout({name: each**2 for name, each in gradients(model).items()})
    assert all(off(ours()[path], leaf) > 0.1 for path, leaf in found.items())
