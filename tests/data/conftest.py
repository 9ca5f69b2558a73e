"""Small corpora and token files."""

import pytest

from tritter_jax.data import Corpus, Document, byte_tokenizer, tokenize


def corpus_of(*texts: str, label: str = "small") -> Corpus:
    """A corpus of texts, named by their numbers."""
    documents = tuple(Document.of(f"{i:04d}", text) for i, text in enumerate(texts))
    return Corpus(label=label, documents=documents)


def numbered(count: int = 40, words: int = 30) -> list[str]:
    """Texts of which no two share a word."""
    return [" ".join(f"{i:03d}.{j:03d}" for j in range(words)) for i in range(count)]


@pytest.fixture(scope="session")
def token_file(tmp_path_factory):
    """Forty documents of 239 bytes, some of them held out."""
    return tokenize(corpus_of(*numbered()), byte_tokenizer(), held_out=0.2, cache=tmp_path_factory.mktemp("cache"))
