"""The model card: true, valid, its code runs, and what people write into it stays."""

import json
import re
import warnings
from pathlib import Path

import pytest
import transformers.utils.hub
from huggingface_hub import ModelCard
from tprog.amend import amend
from tprog.card import merge_cards, model_card, write_card
from tprog.card_merge import merge
from tprog.errors import FormatError, UsageError
from tprog.hub_push import push
from tprog.numpy import save
from tprog.reader import open_checkpoint
from tprog.verify import verify

from tests.cli.conftest import LARGER, config_file, small  # noqa: F401
from tests.tprog.files import random_arrays, small_config
from tritter_jax.data import byte_tokenizer


@pytest.fixture
def poet(tmp_path):
    config = small_config(vocab_size=320)
    byte_tokenizer().save(tmp_path / "words")
    return save(tmp_path / "poet.tprog", random_arrays(config), config, tokenizer_from=tmp_path / "words")


def code(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def run(blocks: list[str]) -> dict:
    names: dict = {}
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "card", "exec"), names)
    return names


def test_the_code_of_a_card_runs(poet, monkeypatch):
    path, _ = write_card(poet)
    monkeypatch.chdir(poet.parent)
    names = run(code(path.read_text()))
    assert names["logits"].shape == (1, 8, 320)
    assert names["model"].config.vocab_size == 320
    assert names["tokenizer"].decode(names["tokenizer"]("poem").input_ids) == "poem"
    assert len(names["tensors"]) == len(names["model"].state_dict())


def test_the_code_of_a_card_on_the_hub_runs(hub, poet, monkeypatch, tmp_path):
    monkeypatch.setattr(transformers.utils.hub, "is_offline_mode", lambda: False)
    push(poet, "org/poet@later")
    names = run(code(hub.repositories["org/poet"].files("later")["README.md"].decode()))
    assert names["logits"].shape == (1, 8, 320)
    assert names["tokenizer"]("poem").input_ids


def test_a_grown_model_tells_how_it_grew(tritter, small, config_file):  # noqa: F811
    target = config_file("large.json", **LARGER)
    grown = tritter("expand", "--from", small, "--to", target, "--layers", "1", "--json").json["path"]
    card = write_card(grown)[0].read_text()
    drift = open_checkpoint(grown).progressive.expansion_history[0].measured_drift["max_relative"]
    (row,) = re.findall(r"\| 1 \|.*", card)
    assert "depth and width upscaling" in row
    assert "the same function:" in row
    assert f"{drift:.1e}" in row
    assert "- growth 1, depth by identity: 2 (from 1)\n" in card
    assert "model-growth" in ModelCard(card).data.tags
    assert "Lineage" not in write_card(small)[0].read_text()


def test_metadata_is_what_huggingface_hub_reads(poet):
    card = model_card(open_checkpoint(poet), "org/poet", base_model="org/prose", license="apache-2.0")
    data = ModelCard(card).data
    assert (data.base_model, data.license, data.library_name) == ("org/prose", "apache-2.0", "transformers")
    assert data.pipeline_tag == "text-generation"
    assert {"llama", "tprog"} <= set(data.tags)
    assert not hasattr(ModelCard(model_card(open_checkpoint(poet), "poet")).data, "nonsense")
    assert ModelCard(model_card(open_checkpoint(poet), "poet")).data.license is None


def test_losses_and_forgetting_come_from_a_run(tritter, poet, tmp_path):
    lines = [{"step": 1, "held_out_loss": 3.0}, {"step": 5, "held_out_loss": 2.0}, {"step": 9, "held_out_loss": 2.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tritter("card", poet, "--metrics", tmp_path).code == 0
    assert "| held out loss | 3.0000 | 2.0000 | 5 | 2.5000 | 0.5000 |" in (poet / "README.md").read_text()
    assert "metrics.jsonl" in tritter("card", poet, "--metrics", tmp_path / "words").error


def test_what_was_forgotten_of_each_task_is_told(poet):
    losses = {"tasks": ["prose", "a|b"], "losses": [[2.0, None], [2.5, 1.5]], "forgetting": 0.5}
    amend(poet, task_losses=losses)
    card = write_card(poet)[0].read_text()
    for row in (
        "|  | prose | a\\|b |",
        "| after prose | 2.0000 |  |",
        "| after a\\|b | 2.5000 | 1.5000 |",
        "| forgotten since the lowest | 0.5000 | 0.0000 |",
        "In all: forgetting +0.5000.",
    ):
        assert row in card
    amend(poet, task_losses=None)
    assert "forgetting" not in write_card(poet)[0].read_text().lower()


def test_pictures_are_shown_and_pushed(hub, poet):
    (poet / "plots").mkdir()
    (poet / "plots" / "loss.png").write_bytes(b"\x89PNG")
    push(poet, "org/poet")
    files = hub.repositories["org/poet"].files()
    assert "plots/loss.png" in files
    assert "![plots/loss.png](plots/loss.png)" in files["README.md"].decode()


def test_losses_and_layers_are_drawn_on_the_card(hub, poet, tritter, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"step": step, "loss": 5 - step / 10, "held_out_loss": 5.0} for step in (10, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tritter("card", poet).code == 0
    assert not (poet / "plots").exists()
    assert "plots/" not in (poet / "README.md").read_text()
    record = {
        "loss": 2.0, "loss_when_skipped": [2.5, 2.1], "block_influence": [0.2, 0.1],
        "residual_norms": [1.0, 2.0, 3.0], "expendable_layers": [1], "data": "text",
    }  # fmt: skip
    amend(poet, layer_analysis=record)
    assert tritter("push", poet, "org/poet", "--metrics", run).code == 0
    files = hub.repositories["org/poet"].files()
    for name in ("plots/tritter-layers.png", "plots/tritter-loss.png"):
        assert files[name].startswith(b"\x89PNG")
        assert f"![{name}]({name})" in files["README.md"].decode()
    assert verify(poet).ok
    (poet / "plots" / "tritter-layers.png").write_bytes(b"old")
    amend(poet, layer_analysis=record | {"block_influence": [0.2]})  # of another model
    assert tritter("card", poet).code == 0
    assert (poet / "plots" / "tritter-layers.png").read_bytes() == b"old"


def test_writing_again_changes_nothing(poet):
    once = write_card(poet)[0].read_bytes()
    path, edited = write_card(poet)
    assert (path.read_bytes(), edited) == (once, ())


def edited(card: str) -> str:
    """A card as somebody left it: a field, a sentence before, within and after the sections."""
    for old, new in (
        ("tags:\n", "language: en\ntags:\n- verse # mine\n"),
        ("\n---\n", "\n---\n\nHello.\n"),
        ("With transformers:", "With transformers, as ever:"),
    ):
        assert old in card
        card = card.replace(old, new, 1)
    return card + "\n## Thanks\n\nTo all.\n"


def test_what_was_written_by_hand_stays_and_the_rest_is_renewed(poet):
    path, _ = write_card(poet)
    old = edited(path.read_text())
    known = open_checkpoint(poet)
    fresh = model_card(known, "poet.tprog", license="mit", metrics=[{"step": 1, "loss": 2.0}])
    card, kept = merge_cards(fresh.replace("| layers | 2 |", "| layers | 9 |"), old)
    assert kept == ("loading",)
    assert "- verse # mine\n" in card
    assert "language: en\n" in card
    assert "license: mit\n" in card
    for text in ("\nHello.\n", "With transformers, as ever:", "\n## Thanks\n\nTo all.\n"):
        assert text in card
    assert card.count("## How to load it") == card.count("## Losses and forgetting") == 1
    assert ModelCard(card).data.license == "mit"


def test_what_nobody_edited_is_renewed(poet):
    fresh, old = (model_card(open_checkpoint(poet), name) for name in ("org/poet", "poem.tprog"))
    assert merge(fresh, old) == (fresh, ())


def test_a_section_that_was_emptied_stays_empty(poet):
    fresh = model_card(open_checkpoint(poet), "poet")
    emptied = re.sub(r"(<!-- tritter:loading \w+ -->\n).*?(<!-- /tritter:loading)", r"\1\2", fresh, flags=re.DOTALL)
    card, kept = merge(fresh, emptied)
    assert (card, kept) == (emptied, ("loading",))


def test_a_card_of_another_tool_gets_the_sections_and_keeps_its_text(poet):
    (poet / "README.md").write_text("# My poet\r\n\r\nBy me.\r\n", newline="")
    card = write_card(poet)[0].read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# My poet\n\nBy me.\n\n<!-- tritter:architecture" in card
    assert "# poet" not in card


def test_edits_on_the_hub_and_here_both_survive_or_are_asked_about(hub, poet):
    push(poet, "org/poet")
    files = hub.repositories["org/poet"].files()
    files["README.md"] = edited(files["README.md"].decode()).encode()
    push(poet, "org/poet")
    assert "To all." in hub.repositories["org/poet"].files()["README.md"].decode()
    path, _ = write_card(poet)
    push(poet, "org/poet")  # the one here has no text of its own
    assert "To all." in hub.repositories["org/poet"].files()["README.md"].decode()
    path.write_text(path.read_text() + "\nMine.\n")
    with pytest.raises(UsageError, match="--card here or --card hub"):
        push(poet, "org/poet")
    push(poet, "org/poet", card="here")
    assert "Mine." in hub.repositories["org/poet"].files()["README.md"].decode()


@pytest.mark.parametrize("head", ["tags: [\n", "base_model:\n  a: [1\n", "- 1\n"])
def test_a_head_that_is_no_metadata_is_refused(tritter, poet, head):
    (poet / "README.md").write_text(f"---\n{head}---\n# poet\n")
    assert "head of valid metadata" in tritter("card", poet).error
    assert (poet / "README.md").read_text().startswith(f"---\n{head}")


def test_a_card_that_is_no_text_is_refused(poet):
    (poet / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        write_card(poet)
    (poet / "README.md").write_bytes(b"x" * (1 << 21))
    with pytest.raises(FormatError, match="Shorten"):
        write_card(poet)


def test_a_place_that_cannot_be_written_is_named(tritter, poet, monkeypatch):
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert "a place that can be written" in tritter("card", poet).error


def test_a_checkpoint_with_a_card_may_be_overwritten(tritter, poet):
    write_card(poet)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tritter("verify", poet).code == 0
    config = small_config(vocab_size=320)
    save(poet, random_arrays(config, 1), config, overwrite=True)
    assert not (poet / "README.md").exists()
