"""A build touches what it has made, and nothing else."""

import logging
from pathlib import Path

import pytest

from data_pipeline.build.build import build
from data_pipeline.build.workers.pool import ProcessPool
from data_pipeline.config import BuildConfig
from data_pipeline.errors import DataError
from data_pipeline.storage.files import local_path


def config_for(source: Path | str, output: Path) -> BuildConfig:
    return BuildConfig(
        sources=(str(source),), output=str(output), shard_bytes=4_000, valid_fraction=0.2
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def killed(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a build that was killed when it had begun."""
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(ProcessPool, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(config_for(corpus, output))
    return output


def test_what_a_killed_build_was_writing_is_removed_and_nothing_else(
    killed: Path, corpus: Path
) -> None:
    own = [
        killed / "train" / ".shard-000000.tar.123.partial",
        killed / "valid" / ".manifest.json.123.partial",
        killed / ".report.json.123.partial",
        killed / ".work" / ".part-000000.parquet.123.partial",
    ]
    others = [
        killed / ".download.zip.partial",
        killed / "train" / ".download.zip.partial",
        killed / "deep" / "er" / ".shard-000000.tar.123.partial",
    ]
    for path in (*own, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    build(config_for(corpus, killed))
    assert not [path for path in own if path.exists()]
    assert [path for path in others if path.exists()] == others


@pytest.mark.parametrize(
    "name", ["notes.txt", "train/shard-000000.tar", "deep/er/a.partial", ".work/mine", ".hidden"]
)
def test_a_folder_of_someone_else_is_refused(name: str, corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("mine")
    with pytest.raises(DataError, match=r"out: holds files that no build has made \(\S+\)"):
        build(config_for(corpus, output))
    assert files_of(output) == {name: b"mine"}


def test_an_empty_folder_and_one_where_a_build_had_just_begun_are_taken(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    build(config_for(corpus, tmp_path / "empty"))
    for name in ("train", "valid", ".work"):
        (tmp_path / "begun" / name).mkdir(parents=True)
    (tmp_path / "begun" / ".work" / "lock").touch()
    build(config_for(corpus, tmp_path / "begun"))
    assert files_of(tmp_path / "begun").keys() == files_of(tmp_path / "empty").keys()


@pytest.mark.parametrize("glob", ["", "/*", "/**", "/d*/*", "/**/*", "/deep/out/train/*.tar"])
def test_an_output_inside_its_source_is_refused(glob: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="lies inside the source"):
        build(config_for(f"{tmp_path}{glob}", tmp_path / "deep" / "out"))
    assert not (tmp_path / "deep").exists()


def test_a_glob_beside_the_output_is_no_source_around_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    config = config_for(f"{tmp_path}/*.txt", tmp_path / "out")
    assert build(config).documents_read == build(config).documents_read == 1


@pytest.mark.parametrize("source", ["corpus/train", "corpus/train/*.txt", "link"])
def test_a_source_inside_the_output_is_refused(source: str, tmp_path: Path) -> None:
    (tmp_path / "corpus" / "train").mkdir(parents=True)
    text = tmp_path / "corpus" / "train" / "a.txt"
    text.write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "corpus" / "train")
    with pytest.raises(DataError, match=r"the source \S+a\.txt lies inside"):
        build(config_for(tmp_path / source, tmp_path / "corpus"))
    assert files_of(tmp_path / "corpus") == {"train/a.txt": b"text"}


def test_a_finished_build_that_is_damaged_is_repeated(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    config = config_for(corpus, output)
    build(config)
    whole = files_of(output)
    stamps = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    build(config)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == stamps
    shard = output / "train" / "shard-000001.tar"
    for damage, message in (
        (shard.unlink, "shard-000001.tar: no such file"),
        (lambda: shard.write_bytes(shard.read_bytes()[:-1]), "bytes; expected"),
        ((output / "train" / "manifest.json").unlink, "manifest.json: no such file"),
        (lambda: (output / "valid" / "documents.npy").write_bytes(b""), "documents.npy: 0 bytes"),
        (
            lambda: (output / "valid" / "manifest.json").write_bytes(whole["train/manifest.json"]),
            "by the manifest",
        ),
    ):
        damage()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            build(config)
        assert message in caplog.text
        assert "the build is repeated" in caplog.text
        found = files_of(output)
        assert found.pop("report.json")
        assert found == {name: data for name, data in whole.items() if name != "report.json"}


def test_a_build_is_not_finished_while_it_is_repeated(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    build(config_for(corpus, output))
    (output / "train" / "shard-000000.tar").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(ProcessPool, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(config_for(corpus, output))
    assert not (output / "report.json").exists()
    build(config_for(corpus, output))
    assert local_path(str(output / "train" / "shard-000000.tar")).is_file()
