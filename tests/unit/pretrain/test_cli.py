"""The command line: quick help without torch, clear errors, exit status."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pretrain.cli import COMMANDS, _list_options, _parse, append_repeated, main


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_imports_no_torch(name: str) -> None:
    code = (
        "import sys\n"
        "from pretrain.cli import main\n"
        "try:\n"
        f"    main({[*name.split(), '--help']!r})\n"
        "except SystemExit as stop:\n"
        "    heavy = {'torch', 'deepspeed', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else stop.code)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"usage: resonance {name}" in result.stdout


def test_an_unknown_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["pretrian", "run.toml"])
    assert stop.value.code == 2
    assert "did you mean: pretrain?" in capsys.readouterr().err


def test_an_error_is_one_message_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "absent.toml"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "resonance pretrain: absent.toml: no such run file\n"


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text('[data]\ndatasets = [{ path = "train" }]\n')
    command = f"{sys.executable} -m pretrain.cli launch slurm {run_file} | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stderr.count("\n") <= 1
    assert "Error" not in result.stderr


def test_a_misspelt_flag_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["generate", "runs/x", "--tempreature", "1"])
    assert stop.value.code == 2
    assert "--temperature" in capsys.readouterr().err


# values of each list option, in two parts that are given in two places
LISTS: dict[str, dict[str, tuple[str, str]]] = {
    "tokenizer train": {"--inputs": ("a", "b c"), "--read.columns": ("a", "b")},
    "data build": {
        "--sources": ("a b", "c"),
        "--read.columns": ("a", "b"),
        "--against": ("a", "b c"),
        "--decontaminate": ("a", "b"),
        "--cluster.setup": ("module load python", "true"),
    },
    "evaluate": {"--text": ("a", "b"), "--tasks": ("a", "b")},
    "embed": {"--inputs": ("a", "b c"), "--read.columns": ("a", "b")},
    "doctor": {"--checks": ("causality", "a b")},
    "launch slurm": {"--sweep": ("train.seed=0,1", "model.dim=32,64")},
    "pretrain": {
        "--evaluate.tasks": ("a", "b"),
        "--evaluate.texts": ("a", "b c"),
        "--launch.kubernetes.secret-keys": ("A", "B"),
        "--launch.kubernetes.tolerations": ("a", "b"),
        "--launch.slurm.exclude": ("n1", "n2"),
        "--launch.slurm.modules": ("gcc/13", "cuda/12"),
        "--launch.slurm.nodelist": ("n1", "n2"),
        "--launch.slurm.options": ("nice 10", "begin now"),
        "--launch.slurm.mounts": ("/a:/a", "/b:/b"),
        "--launch.environment": ("A 1", "B 2"),
        "--launch.kubernetes.node-selector": ("a 1", "b 2"),
        "--model.conv-heads": ("1", "2 3"),
        "--model.gates.selection-parts": ("importance", "scales"),
        "--model.mixers": ("heads", "fft"),
        "--objective.labels": ("a", "b"),
        "--train.batch-warmup": ("1 4", "2 4"),
        "--train.length-warmup": ("1 64", "2 128"),
    },
}


@pytest.fixture
def positional(tmp_path: Path) -> dict[str, list[str]]:
    """What each command requires besides."""
    run_file = tmp_path / "run.toml"
    run_file.write_text('[model]\nmixers = ["wavelet"]\n')
    return {
        "tokenizer train": ["--output", "o"],
        "data build": ["--output", "o"],
        "evaluate": ["runs/x"],
        "embed": ["runs/x", "--inputs", "z", "--output", "o"],
        "doctor": [],
        "launch slurm": [str(run_file)],
        "pretrain": [str(run_file)],
    }


def test_every_list_option_is_tested() -> None:
    for name, command in COMMANDS.items():
        options = set(_list_options(command.arguments))
        # tables, which only the file can set, numbers that only a known wavelet may have, and
        # arguments without a name
        others = {"--data.datasets", "--model.wavelet.bank", "--runs"}
        assert options - others == set(LISTS.get(name, {})), name


@pytest.mark.parametrize("name", LISTS)
def test_a_list_option_that_is_given_twice_has_the_values_of_both(
    name: str, positional: dict[str, list[str]]
) -> None:
    other = {
        "tokenizer train": "--vocab-size",
        "data build": "--num-processes",
        "evaluate": "--limit",
        "embed": "--batch-size",
        "doctor": "--length",
        "launch slurm": "--chain",
        "pretrain": "--train.seed",
    }[name]
    for option, (one, two) in LISTS[name].items():
        first, second = one.split(), two.split()
        forms = [
            [option, *first, *second],
            [option, *first, option, *second],
            [option, *first, other, "300", option, *second],
            [option.replace("-", "_").replace("__", "--"), *first, option, *second],
        ]
        if len(first) == len(second) == 1:
            forms.append([f"{option}={one}", f"{option}={two}"])
        parsed = [_parse(name, COMMANDS[name], [*positional[name], *form]) for form in forms]
        values = [_value(table, option) for table in parsed]
        assert len(values[0]) >= 2
        assert values == values[:1] * len(values)


def _value(table: Any, option: str) -> Any:
    path = option.removeprefix("--").replace("-", "_").split(".")
    for key in ["run", *path] if hasattr(table, "run") else path:
        table = getattr(table, key)
    return table


def test_other_options_stay_where_they_are() -> None:
    given = ["R", "--a", "1", "--b=2", "-h", "--a", "3", "--x_y", "4", "5"]
    assert append_repeated(given, set()) == given
    assert append_repeated(given, {"--x-y"}) == given
    assert append_repeated(given, {"--a"}) == [
        *("R", "--a", "1", "3", "--b=2", "-h", "--x_y", "4", "5"),
    ]
