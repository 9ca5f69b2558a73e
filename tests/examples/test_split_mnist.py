"""The Split MNIST example on made-up digits: who forgets and who does not, and what its own estimators compute."""

import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tprog import UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"
PIXELS = 24


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    with jax.numpy_dtype_promotion("standard"):
        yield


def made_up(seed: int = 0) -> dict[str, Any]:
    """Ten patterns with noise, as a file holds them."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (10, PIXELS))

    def some(count: int) -> tuple[np.ndarray, np.ndarray]:
        digits = np.arange(count) % 10
        noisy = patterns[digits] + rng.normal(0, 60, (count, PIXELS))
        return np.clip(noisy, 0, 255).astype(np.uint8), digits

    return dict(zip(("train_x", "train_y", "test_x", "test_y"), (*some(600), *some(400)), strict=True))


def part(name: str) -> Any:
    """A module of the example."""
    return import_module(f"split_mnist.{name}")


def experiment(**options: Any) -> Any:
    digits = part("data").Digits(**made_up(), source="")
    return part("tasks").SplitMnist(digits, 0, iterations=300, batch=32, hidden=8, **options)


@pytest.fixture(scope="module")
def forgetful():
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.syspath_prepend(EXAMPLES)
        return experiment().run("none", 0.0)


@pytest.mark.parametrize(
    ("row", "rule"), [("sampled", "online"), ("empirical", "online"), ("exact", "online"), ("exact", "separate")]
)
def test_ewc_keeps_the_first_task_which_is_lost_without(row, rule, forgetful):
    kept = experiment(rule=rule).run(row, 1e3)
    assert forgetful[0] < 0.8
    assert forgetful[-1] > 0.95
    assert kept[0] > 0.95
    assert np.mean(kept) > np.mean(forgetful)


def test_without_a_strength_it_is_lost_all_the_same(forgetful):
    assert experiment().run("exact", 0.0) == forgetful


def squares_of(labels_of: Any) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Squared gradients of single images, and what they are of."""
    network = part("network")
    params = network.init_network(PIXELS, 0, 8)
    data = made_up()
    images, labels = data["train_x"][:150], (data["train_y"][:150] % 2).astype(np.int32)

    def log_p(params: Any, image: Any, label: Any) -> jax.Array:
        return jax.nn.log_softmax(network.task_logits(params, image[None], 1)[0])[label]

    def one(image: Any, label: Any) -> Any:
        return jax.tree.map(jnp.square, jax.grad(log_p)(params, image, label))

    weights = [np.exp(jax.vmap(log_p, (None, 0, None))(params, images, label)) for label in (0, 1)]
    total = [
        jax.tree.map(
            lambda leaf, each=each: np.tensordot(each, leaf, 1) / len(images),
            jax.vmap(one)(images, np.full(len(images), label)),
        )
        for label, each in enumerate(labels_of(labels, weights))
    ]
    return params, jax.tree.map(lambda *leaves: sum(leaves), *total), images, labels


@pytest.mark.parametrize(
    ("row", "weigh"),
    [("exact", lambda labels, p: p), ("empirical", lambda labels, p: [labels == 0, labels == 1])],
)
def test_a_row_is_what_its_images_give_one_by_one(row, weigh):
    params, due, images, labels = squares_of(weigh)
    found, wrong = (part("fisher").measure(each, 1, params, images, labels, 0) for each in (row, "batched"))
    for leaf, true, other in zip(*map(jax.tree.leaves, (found, due, wrong)), strict=True):
        np.testing.assert_allclose(leaf, true, rtol=1e-4, atol=1e-6 * true.max())
        assert np.abs(other - true).sum() > 0.3 * true.sum()


def run_main(*words: str) -> None:
    runpy.run_path(str(EXAMPLES / "03_split_mnist.py"))["main"](list(words))


def test_runs_that_are_done_are_not_run_again(tmp_path, capsys):
    np.savez(tmp_path / "made_up.npz", **made_up())
    words = ["--data", str(tmp_path / "made_up.npz"), "--out", str(tmp_path / "out"), "--iterations", "3"]
    run_main(*words, "--rows", "none,sampled", "--lambdas", "1,10")
    first = capsys.readouterr().out
    assert "made_up.npz; 600 images to train on, 400 to test on" in first
    assert first.count("seed 0:") == 3
    run_main(*words, "--rows", "none,sampled", "--lambdas", "1,10", "--seeds", "2")
    second = capsys.readouterr().out
    assert second.count("seed 1:") == 3
    assert "seed 0:" not in second
    assert "| sampled |" in second
    assert "(2)" in second
    assert (tmp_path / "out" / "split_mnist.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arrays", "words", "said"),
    [
        (made_up(), ["--rows", "sample"], "--rows: expected some of none, sampled"),
        ({"images": np.zeros(1)}, [], "--data: expected train_x, train_y, test_x, test_y or x_train"),
        (None, [], "--data: expected an .npz file"),
    ],
)
def test_what_cannot_be_done_is_said(arrays, words, said, tmp_path):
    if arrays is not None:
        np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UsageError) as error:
        run_main("--data", str(tmp_path / "x.npz"), "--out", str(tmp_path / "out"), *words)
    assert said in str(error.value)
