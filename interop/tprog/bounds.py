"""How large a file may be that is read before anything vouches for it: four times the largest that we know of.

| file | largest known | bytes | values |
|---|---|---|---|
| config.json | microsoft/beit-large-patch16-224-pt22k-ft22k: 21,841 classes, twice | 1.8 MB | 43,800 |
| *.index.json | moonshotai/Kimi-K2-Thinking: 60 layers x 384 experts x 9 tensors, and more | 22 MB | 209,000 |
| header of a tensor file | Qwen3-30B-A3B in GPTQ: 73,728 tensors of experts in four files | 2.5 MB | 18,700 |
| tokenizer.json | facebook/xlm-v-base: 901,629 words; then Gemma 3 (33 MB), Llama 4 (28 MB) | 60 MB | |
| tekken.json | mistralai/Mistral-Small-3.1-24B | 19 MB | |
| tokenizer_config.json | google/gemma-3-1b-it: 6,415 added tokens | 1.2 MB | 52,000 |

The sizes are from memory, or computed from the numbers of tensors, classes and words of these models; none was looked
up for this table, and larger files may have been published. A header's values are tensors. What progressive.json and
the states of runs hold is our own, and far below.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The most bytes of a kind of file, and the most values: each takes many times the memory of its text.

    With `int64`, every whole number in it fits 64 bits, as code that computes with them expects.
    """

    nbytes: int
    values: int
    int64: bool = False


JSON = Bound(nbytes=16 << 20, values=1 << 20)
"""Of JSON that is none of those below."""
CONFIG = Bound(nbytes=8 << 20, values=180_000)
"""Of config.json."""
METADATA = Bound(nbytes=16 << 20, values=1 << 17, int64=True)
"""Of progressive.json: a manifest of 16,384 files, or the plans of many growths."""
INDEX = Bound(nbytes=128 << 20, values=1 << 20)
"""Of the index of a set of tensors."""
HEADER = Bound(nbytes=16 << 20, values=1 << 17)
"""Of the header of a tensor file; the values are tensors, each of some numbers."""
MAX_TOKENIZER_BYTES = 256 << 20
"""Of any file of a tokenizer. What exceeds `JSON` is not taken apart here, only by the library that reads it."""
MAX_TEMPLATE_BYTES = 1 << 20
"""Of a chat template in a file of its own. The longest that are published have some 30 KB."""
LARGEST_KNOWN = {
    "config.json": (1_800_000, 43_800),
    "model.safetensors.index.json": (22_000_000, 209_000),
    "header": (2_500_000, 18_700),
    "tokenizer.json": (60_000_000, 0),
    "tekken.json": (19_400_000, 0),
    "tokenizer_config.json": (1_200_000, 52_000),
}
"""Bytes and values of the largest known of each kind: the table above, for the test that holds the factor of four."""


def bound_of(name: str) -> Bound:
    """The bound of a JSON file by its name.

    Example:
        >>> bound_of("config.json") == CONFIG, bound_of("model.safetensors.index.json") == INDEX
        (True, True)
    """
    if name == "config.json":
        return CONFIG
    if name == "progressive.json":
        return METADATA
    return INDEX if name.endswith(".index.json") else JSON
