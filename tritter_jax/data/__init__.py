"""Text in, batches of token ids out: corpora, tokenizers, token files, and batches for training and evaluation."""

from tritter_jax.data.batches import EvalBatches, TrainBatches, eval_batches, train_batches
from tritter_jax.data.builtin import BUILTIN
from tritter_jax.data.cache import cache_directory, tokenize
from tritter_jax.data.choice import choose_tokenizer
from tritter_jax.data.corpus import Corpus, Document, open_corpora, open_corpus
from tritter_jax.data.rows import Batch
from tritter_jax.data.tokenizer import Tokenizer
from tritter_jax.data.tokens import TokenFile, TokenView, open_tokens
from tritter_jax.data.vocabulary import byte_tokenizer, load_tokenizer, train_bpe

__all__ = [
    "BUILTIN",
    "Batch",
    "Corpus",
    "Document",
    "EvalBatches",
    "TokenFile",
    "TokenView",
    "Tokenizer",
    "TrainBatches",
    "byte_tokenizer",
    "cache_directory",
    "choose_tokenizer",
    "eval_batches",
    "load_tokenizer",
    "open_corpora",
    "open_corpus",
    "open_tokens",
    "tokenize",
    "train_batches",
    "train_bpe",
]
