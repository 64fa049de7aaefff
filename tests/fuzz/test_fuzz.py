"""Files that are almost valid are read, or refused by a message: no traceback, hang or bomb."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.child import Child
from tests.fuzz.kinds import KINDS as DATA_KINDS
from tests.fuzz.kinds import Kind
from tests.fuzz.labelled_kinds import KINDS as LABELLED_KINDS
from tests.fuzz.model_kinds import KINDS as MODEL_KINDS

KINDS = DATA_KINDS | LABELLED_KINDS | MODEL_KINDS
SHORT, LONG = 30, 3_000


@contextmanager
def _child(kind: Kind) -> Iterator[Child]:
    child = Child(kind.read)
    try:
        yield child
    finally:
        child.close()


def _fuzz(kind: Kind, folder: Path, num_examples: int) -> None:
    kind.build(folder)
    choices = [
        (file, mutation)
        for pattern, mutation in kind.mutations.items()
        for file in sorted(folder.glob(pattern))
    ]
    valid = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with _child(kind) as child:
        assert child.problem(folder) == "", "the valid files must be read"

        # the same examples in every `make test`, others in every `make test-all`
        @settings(
            max_examples=num_examples,
            derandomize=num_examples == SHORT,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(st.data())
        def check(data: st.DataObject) -> None:
            file, mutation = data.draw(st.sampled_from(choices))
            file.write_bytes(data.draw(mutation(valid[file])))
            try:
                kind.finish(folder, file)
                problem = child.problem(folder)
                assert problem == "", f"{file.name}: {problem}"
            finally:
                for name, content in valid.items():
                    name.write_bytes(content)

        check()


@pytest.mark.parametrize("name", KINDS)
def test_some_damaged_files(name: str, tmp_path: Path) -> None:
    _fuzz(KINDS[name], tmp_path, SHORT)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    _fuzz(KINDS[name], tmp_path, LONG)
