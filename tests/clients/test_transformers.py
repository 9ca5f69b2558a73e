"""transformers' own doors to a model find all of a `.tprog`: pipeline(), AutoTokenizer, AutoModelForCausalLM."""

import pytest
import transformers

from tests.clients.conftest import LENGTH, PROMPT, TEMPLATE
from tests.clients.programs import transformers as program


def test_a_pipeline_writes_what_our_own_model_writes(grown):
    found = program(str(grown.path), PROMPT, LENGTH)
    assert found == {"text": grown.text, "ids": grown.ids, "chat": TEMPLATE}


def test_the_tokenizer_is_the_one_in_the_folder(grown):
    top, folder = (
        transformers.AutoTokenizer.from_pretrained(grown.path, subfolder=name) for name in ("", "tokenizer")
    )
    assert top(PROMPT).input_ids == folder(PROMPT).input_ids == grown.ids
    assert top.special_tokens_map == folder.special_tokens_map
    conversation = [{"role": "user", "content": PROMPT}]
    assert top.apply_chat_template(conversation, tokenize=False) == f"{PROMPT}\n"


def test_the_control_without_the_files_at_the_top_neither_finds_a_tokenizer(grown, tmp_path):
    for file in grown.path.iterdir():
        if file.is_dir() or "tokenizer" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises((OSError, ValueError)):
        transformers.AutoTokenizer.from_pretrained(tmp_path)
