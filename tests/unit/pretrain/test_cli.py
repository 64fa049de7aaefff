"""The command line: quick help without torch, clear errors, exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.cli import COMMANDS, main


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
