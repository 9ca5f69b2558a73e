"""A benchmark whose row cannot be measured says so in that row, and measures the others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import bench_files, bench_fisher, bench_products
from tests.benchmarks.rows import SKIPPED, is_skipped, taken_in_turn

ROOT = Path(__file__).parents[2]
WORKS = "from tests.benchmarks.rows import serve; serve(lambda: lambda: {'wall': 1.0})"
LACKS = "from tests.benchmarks.rows import serve\ndef prepare():\n    import not_a_library.part\nserve(prepare)"
DIES = "from tests.benchmarks.rows import serve; serve(lambda: lambda: exit(1))"
FAILS = "raise SystemExit('before it is ready')"


def command(program: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"]


@pytest.mark.parametrize(
    ("program", "said"),
    [(LACKS, "not_a_library is not installed"), (DIES, "failed, see above"), (FAILS, "failed, see above")],
    ids=["not installed", "dies in its first round", "dies before it is ready"],
)
def test_a_row_without_a_result_says_why_and_the_others_go_on(program, said):
    found = taken_in_turn({"a": command(program), "b": command(WORKS)}, {}, rounds=3)
    assert found == {"a": [{SKIPPED: said}], "b": [{"wall": 1.0}] * 4}
    assert is_skipped(found["a"])
    assert not is_skipped(found["b"])


HIDE = "sys.modules.update(dict.fromkeys({names!r}))\nfrom {module} import main\nsys.argv = {argv!r}\nmain()"


def without(names: list[str], module, *arguments: str) -> subprocess.CompletedProcess:
    """A benchmark in a process whose imports of some modules fail as those of what is not installed."""
    argv = [module.__name__, *arguments]
    program = HIDE.format(names=names, module=module.__name__, argv=argv)
    return subprocess.run(command(program), capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_row_of_a_library_that_is_not_installed_says_so(tmp_path):
    done = without(["torch"], bench_fisher, "--row", "PyTorch, a loop over sequences", "--directory", str(tmp_path))
    assert json.loads(done.stdout) == {SKIPPED: "torch is not installed"}
    done = without(["torch"], bench_products, "--framework", "torch")
    assert json.loads(done.stdout) == {SKIPPED: "torch is not installed"}
    done = without(["torch"], bench_files, "--row", "tprog.torch.load, touched", "--directory", str(tmp_path))
    assert "not installed" in json.loads(done.stdout)[SKIPPED]


def test_the_table_of_the_fisher_benchmark_is_printed_without_its_libraries(capsys):
    found = {name: [{"wall": 2.0, "processor": 1.0}] for name in bench_fisher.ROWS}
    found |= {name: [{SKIPPED: "x is not installed"}] for name in list(bench_fisher.ROWS)[3:]}
    bench_fisher.print_table(found)
    assert capsys.readouterr().out.count("x is not installed") == 5
