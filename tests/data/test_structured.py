"""Records, tables and compressed files are no running text; `text:` before them says that they are meant as such."""

import gzip
import json

import pytest
from tprog import UsageError

from tritter_jax.data import open_corpora, open_corpus

RECORDS = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(20))


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.tsv", "a.JSONL", "a.parquet", "a.arrow", "a.jsonl.zst", "a.yaml"],
)
def test_a_structured_file_is_refused_and_the_way_to_mean_it_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text(RECORDS)
    with pytest.raises(UsageError) as caught:
        open_corpus(path)
    assert f"Write text:{path} to take it as text" in str(caught.value)
    (document,) = open_corpus(f"text:{path}")
    assert document.text == RECORDS


def test_compressed_text_is_refused(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"text"))
    with pytest.raises(UsageError, match="compressed data"):
        open_corpus(path)


@pytest.mark.parametrize("name", ["corpus.txt", "corpus", "corpus.data"])
def test_records_under_another_name_are_found_by_their_lines(tmp_path, name):
    (tmp_path / name).write_text(RECORDS)
    with pytest.raises(UsageError, match="JSON records, one a line"):
        open_corpus(tmp_path / name)


@pytest.mark.parametrize("text", ["{ not json\n{ neither\n", "{}\nand text\n", '{"one": 1}', "[1]\n[2]\n", "plain\n"])
def test_text_with_braces_is_text(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert open_corpus(tmp_path / "a.txt").documents[0].text == text


def test_a_directory_with_structured_files_among_its_text_is_refused_and_all_are_listed(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "setup.toml").write_text("[a]\nb = 1\n")
    assert len(open_corpus(tmp_path)) == 2, "what a program is configured with is text among its sources"
    (tmp_path / "b.jsonl").write_text(RECORDS)
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    for spec in (tmp_path, tmp_path / "*"):
        with pytest.raises(UsageError, match=r"b\.jsonl, JSON records") as caught:
            open_corpus(spec)
        assert caught.value.findings == ("c.csv: a table",)
        assert len(open_corpora([f"text:{spec}"])) == 4


def test_text_before_a_name_that_is_not_there_names_it(tmp_path):
    with pytest.raises(UsageError, match="nothing there"):
        open_corpus(f"text:{tmp_path / 'nowhere'}")
