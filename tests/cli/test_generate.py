"""What a model is asked and what is shown of its answer are what transformers would have."""

import jax.numpy as jnp
import pytest
import tokenizers
import tprog.flax
import transformers
from tokenizers import decoders, models, normalizers, processors

from tests.support import odd_config, random_params

WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁once": 3, "▁upon": 4, "▁the": 5}


@pytest.fixture(params=[True, False], ids=["with BOS", "without"])
def model(request, tmp_path):
    """A checkpoint whose tokenizer puts a space before every text and, perhaps, BOS."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=_with_letters(), merges=_merges(), unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    if request.param:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    theirs.save_pretrained(tmp_path / "words")
    config = odd_config("llama", vocab_size=64)
    path = tprog.flax.save(tmp_path / "m.tprog", random_params(config), config, tokenizer_from=tmp_path / "words")
    return path, theirs


def _merges():
    return [(word[:i], word[i]) for word in ("▁once", "▁upon", "▁the") for i in range(1, len(word))]


def _with_letters():
    vocabulary = {name: number for name, number in WORDS.items() if not name.startswith("▁")}
    for word in ("▁once", "▁upon", "▁the"):
        for piece in (*word, *(word[: i + 1] for i in range(len(word)))):
            vocabulary.setdefault(piece, len(vocabulary))
    return vocabulary


def test_prompt_and_answer_are_those_of_transformers(tritter, model, monkeypatch):
    path, theirs = model
    asked = []

    def answer(params, ids, config, *, length, **options):
        asked.append(ids[0].tolist())
        return jnp.full((1, length), theirs.convert_tokens_to_ids("▁the"), jnp.int32)

    monkeypatch.setattr("tritter_jax.model.generate", answer)
    done = tritter("generate", path, "--prompt", "once upon", "--length", 2)
    assert done.out.strip() == "once upon the the"
    assert asked == [theirs("once upon")["input_ids"]]
    assert tritter("generate", path, "--prompt", "once upon", "--length", 2, "--json").json["text"] == " the the"
