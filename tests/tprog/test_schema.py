"""progressive.json: both of the specification's schemas, unknown fields, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tprog.schema
from hypothesis import given, settings
from hypothesis import strategies as st
from tprog import named_size
from tprog.errors import FormatError
from tprog.schema import Expansion, Progressive, json_schema, parse_progressive, read_progressive, write_progressive

DATA = Path(__file__).parent / "data"
FINAL = json.loads((DATA / "progressive_final.json").read_text())


def without(data: dict, *path: str) -> dict:
    copy = json.loads(json.dumps(data))
    node = copy
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return copy


def replaced(data: dict, value: object, *path: str) -> dict:
    copy = json.loads(json.dumps(data))
    node = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return copy


def test_the_final_example_is_read_and_written_as_it_is(tmp_path):
    progressive = read_progressive(DATA / "progressive_final.json")
    assert progressive.ewc_config.lambda_ == 1000.0
    assert progressive.layer_analysis.critical_layers == [0, 1, 25]
    write_progressive(tmp_path / "progressive.json", progressive)
    assert json.loads((tmp_path / "progressive.json").read_text()) == FINAL


def test_the_minimal_example_is_upgraded():
    progressive = read_progressive(DATA / "progressive_minimal.json")
    assert progressive.format_version == "1.0.0"
    assert (progressive.current_size.model_size, progressive.current_size.num_kv_heads) == ("7B", 8)
    assert (progressive.training_progress.tokens_seen, progressive.steps) == (100_000_000_000, 50_000)
    assert progressive.recommended_expansion.next_size == "13B"
    assert len(progressive.layer_analysis.importance_scores) == 32
    assert progressive.ewc_config.enabled


def test_the_minimal_example_loses_nothing():
    data = read_progressive(DATA / "progressive_minimal.json").to_json()
    assert data["current_size"]["intermediate_size"] == 11008
    assert data["training_progress"]["loss_history"] == [10.9, 4.2, 3.1, 2.6, 2.4]
    assert data["recommended_expansion"]["supports_width_expansion"] is True
    assert data["ewc_config"]["fisher_path"] == "fisher_diag.safetensors"
    assert parse_progressive(data).to_json() == data


def test_a_minimal_file_without_a_recommendation_keeps_its_block():
    data = json.loads((DATA / "progressive_minimal.json").read_text())
    del data["expansion_config"]["recommended_next_size"]
    progressive = parse_progressive(data)
    assert progressive.recommended_expansion is None
    assert progressive.to_json()["expansion_config"]["supports_depth_expansion"] is True


@pytest.mark.parametrize(
    "name", [name for name in FINAL if name not in ("format_version", "model_family", "current_size")]
)
def test_every_other_block_may_be_missing(name):
    assert parse_progressive(without(FINAL, name)).to_json() == without(FINAL, name)


@pytest.mark.parametrize("version", ["1", "1.0", "1.7.3"])
def test_versions_of_the_same_major_are_read(version):
    assert parse_progressive(FINAL | {"format_version": version}).format_version == version


@pytest.mark.parametrize("version", ["2.0.0", "2", "10.0", "9" * 5000, "0" * 5000 + "2", "1" * 5000 + ".0"])
def test_a_higher_major_version_is_refused_with_what_to_do(version):
    with pytest.raises(FormatError, match="pip install --upgrade"):
        parse_progressive(FINAL | {"format_version": version})


@pytest.mark.parametrize("version", ["1." + "9" * 5000, "0" * 5000, "1.0.0\n", "1\u0661"])
def test_a_version_of_another_form_is_refused(version):
    with pytest.raises(FormatError, match="format_version"):
        parse_progressive(FINAL | {"format_version": version})


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (without(FINAL, "format_version"), "format_version"),
        (FINAL | {"format_version": "one"}, "format_version"),
        (FINAL | {"format_version": 1}, "format_version"),
        (without(FINAL, "model_family"), "model_family: missing"),
        (without(FINAL, "current_size"), "current_size: missing"),
        (without(FINAL, "current_size", "num_heads"), "current_size.num_heads: missing"),
        (replaced(FINAL, "2560", "current_size", "hidden_size"), "current_size.hidden_size"),
        (replaced(FINAL, 0, "current_size", "num_layers"), "current_size.num_layers"),
        (replaced(FINAL, -1, "training_progress", "steps"), "training_progress.steps"),
        (replaced(FINAL, 1e400, "training_progress", "best_loss"), "training_progress.best_loss"),
        (replaced(FINAL, -2.0, "ewc_config", "lambda"), "ewc_config.lambda"),
        (replaced(FINAL, "yes", "ewc_config", "enabled"), "ewc_config.enabled"),
        (replaced(FINAL, {}, "expansion_history"), "expansion_history"),
        (replaced(FINAL, [{"from_size": "1B"}], "expansion_history"), "expansion_history.0.to_size: missing"),
        (replaced(FINAL, [-1], "layer_analysis", "critical_layers"), "layer_analysis.critical_layers.0"),
        (
            FINAL | {"manifest": {"save_id": "a", "files": {"x": {"bytes": 1, "sha256": "z"}}}},
            "manifest.files.x.sha256",
        ),
    ],
)
def test_a_field_that_does_not_fit_is_named(data, finding):
    with pytest.raises(FormatError, match=r"progressive\.json") as caught:
        parse_progressive(data)
    assert any(finding in line for line in (*caught.value.findings, caught.value.where))


def test_all_findings_come_at_once():
    data = replaced(replaced(FINAL, "x", "current_size", "hidden_size"), -1, "training_progress", "steps")
    with pytest.raises(FormatError) as caught:
        parse_progressive(data)
    assert len(caught.value.findings) == 2


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
unknown = st.dictionaries(st.text(min_size=1, max_size=8).map(lambda name: "x" + name), json_values, max_size=3)


@settings(max_examples=60, deadline=None)
@given(unknown, unknown, unknown)
def test_unknown_fields_survive(top, size, history):
    data = FINAL | top | {"current_size": FINAL["current_size"] | size}
    data["expansion_history"] = [FINAL["expansion_history"][0] | history]
    assert json.loads(json.dumps(parse_progressive(data).to_json())) == data


@pytest.mark.parametrize("name", ["model_config", "model_dump", "__class__", "copy", "lambda_"])
def test_an_unknown_field_may_have_any_name(name):
    assert parse_progressive(FINAL | {name: 1}).to_json()[name] == 1


def test_describing_keeps_what_it_does_not_know():
    progressive = parse_progressive(replaced(FINAL, 7, "current_size", "note")).describing(named_size("7B"))
    size = progressive.to_json()["current_size"]
    assert size == {
        "model_size": "7B",
        "hidden_size": 4096,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 8,
        "note": 7,
    }


def test_with_fields_checks_and_writes_our_own_fields():
    entry = Expansion(
        from_size="3B", to_size="7B", method="width_duplicate", plan={"depth": {}}, guarantee={"exact": True},
        measured_drift={"relative": 1e-7},
    )  # fmt: skip
    progressive = Progressive.of(named_size("7B")).with_fields(expansion_history=[entry])
    assert parse_progressive(progressive.to_json()).expansion_history[0].measured_drift == {"relative": 1e-7}
    with pytest.raises(FormatError, match="steps"):
        progressive.with_fields(training_progress={"steps": -1})


def plain(schema):
    """The same without `additionalProperties: true`, which says nothing; pydantic 2.10 leaves some out."""
    if isinstance(schema, dict):
        return {name: plain(at) for name, at in schema.items() if name != "additionalProperties" or at is not True}
    return [plain(at) for at in schema] if isinstance(schema, list) else schema


def test_the_exported_json_schema_is_current():
    stored = json.loads((Path(tprog.schema.__file__).parents[1] / "progressive.schema.json").read_text())
    assert plain(stored) == plain(json_schema()), "run `python -m tprog.schema > interop/progressive.schema.json`"


def test_the_json_schema_says_what_the_models_say():
    schema = json_schema()
    assert schema["properties"].keys() == set(Progressive.model_fields)
    assert "lambda" in schema["$defs"]["EWCConfig"]["properties"]
    assert schema["required"] == ["format_version", "model_family", "current_size"]
    assert schema["additionalProperties"] is True


def test_hostile_metadata_costs_little(tmp_path):
    """Each is refused within seconds and 100 MB: what grows faster than the text would take minutes."""
    size = FINAL["current_size"]
    start = json.dumps(FINAL | {"current_size": size})[:-1].replace('"expansion_history"', '"history"')
    texts = {
        "history": start + ', "expansion_history": [' + "{}," * 500_000 + "{}]}",
        "files": start
        + ', "manifest": {"save_id": "a", "files": {'
        + ",".join(f'"{i}":{{}}' for i in range(300_000))
        + "}}}",
        "scores": replaced(FINAL, None, "layer_analysis", "importance_scores"),
        "digits": start + ', "x": ' + "9" * 5_000_000 + "}",
        "long": start + ', "x": "' + "a" * (17 << 20) + '"}',
    }
    texts["scores"] = json.dumps(texts["scores"]).replace(
        '"importance_scores": null', '"importance_scores": [' + '"",' * 900_000 + '""]'
    )
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    code = """
import resource, sys, time
from pathlib import Path
from tprog.errors import FormatError
from tprog.schema import read_progressive
for path in sys.argv[1:]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        read_progressive(Path(path))
    except FormatError:
        print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    arguments = [str(tmp_path / name) for name in texts]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    costs = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(costs) == len(texts)
    assert max(seconds for seconds, _ in costs) < 4, costs
    assert max(kilobytes for _, kilobytes in costs) < 100_000, costs


def test_many_findings_are_counted_and_cut():
    with pytest.raises(FormatError, match="3000 that do not fit") as caught:
        parse_progressive(FINAL | {"expansion_history": [{}] * 1000})
    assert (len(caught.value.findings), caught.value.more) == (100, 2900)
    assert str(caught.value).endswith("and 2,900 more")
