"""Values with quotes, line breaks, $(), `` and ; reach the ranks as they are; none is executed.

Each rendered script is run by the real bash, with stand-ins for Slurm's commands that write their
arguments down.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.config import LaunchConfig
from launch.errors import LaunchError
from launch.job import Job
from launch.slurm.directives import directives
from launch.slurm.script import batch_script

HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "a; touch pwned",
    "a' ; touch pwned ; '",
    'a" ; touch pwned ; "',
    "a\ntouch pwned\n#SBATCH --partition=other",
    "a && touch pwned | cat > pwned &",
    "${HOME} $1 !! ~ * ? [x] {a,b}",
    "\\",
    "\\'; touch pwned",
    "-n --help",
    "#SBATCH --account=other",
    " leading and trailing ",
    "%j %x %%",
    "ünï → 文字",
    "a\tb\rc\x1b[0m",
]
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20
).filter(lambda name: name.strip(".") and len(name.encode()) < 200)
# what a rank would see
SRUN = """\
#!/bin/sh
printf '%s\\0' "$@" >"$RECORD/arguments"
env -0 >"$RECORD/environment"
pwd >"$RECORD/directory"
"""


def run_script(script: str, folder: Path) -> tuple[list[str], dict[str, str], str]:
    """Run a batch script; returns srun's arguments, its environment and its directory.

    Args:
        script: Its text.
        folder: Where the stand-ins are put, and what they write down.
    """
    commands = folder / "commands"
    commands.mkdir()
    stand_ins = {
        "srun": SRUN,
        "squeue": "#!/bin/sh\necho Welcome; echo state=RUNNING; echo Bye\n",
        "module": '#!/bin/sh\nprintf "%s" "$2" >"$RECORD/module"\n',
    }
    for name, text in stand_ins.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    own = {
        "PATH": f"{commands}:/usr/bin:/bin",
        "RECORD": str(folder),
        "SLURM_JOB_ID": "7",
        "SLURMD_NODENAME": "host1",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    subprocess.run(["bash"], input=script.encode(), env=own, cwd=folder, check=True, timeout=20)
    arguments = (folder / "arguments").read_bytes().decode().split("\0")[:-1]
    pairs = (folder / "environment").read_bytes().decode().split("\0")[:-1]
    environment = dict(pair.split("=", 1) for pair in pairs)
    return arguments, environment, (folder / "directory").read_text()


def check_survives(value: str, name: str) -> None:
    """Render a job with a value in every place of free text, run it, compare."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        working = folder / name
        working.mkdir()
        # the script's last step asks this interpreter what to do next
        python = working / "python"
        python.write_text("#!/bin/sh\necho done\n")
        python.chmod(0o755)
        line = re.sub(r"[\x00-\x1f\x7f]", "", value)
        config = LaunchConfig.model_validate(
            {
                "environment": {"FREE": value, "script": value, "step": value},
                "slurm": {"modules": [line], "container": "apptainer", "image": line or "x"},
            }
        )
        directory = PurePosixPath(working) / "launch"
        paths = directory, PurePosixPath(working), str(python)
        job = Job(config, "trial", *paths, ["a = 1\n"], PurePosixPath(working) / "out")
        try:
            script = batch_script(job)
        except LaunchError:
            # refused: control characters, % and \ by sbatch, ':' and ',' by a container's mounts
            assert re.search(r"[\x00-\x1f\x7f:,%\\]", name)
            return
        arguments, environment, found = run_script(script, folder)
        assert [environment[name] for name in ("FREE", "script", "step")] == [value] * 3
        assert (folder / "module").read_text() == line
        assert found.removesuffix("\n") == str(working)
        assert (line or "x") in arguments
        assert f"--pwd={working}" in arguments
        assert f"{directory}/run.toml" in arguments
        assert "--auto-resume" in arguments
        assert not list(folder.rglob("pwned"))


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values(value: str) -> None:
    check_survives(value, "folder")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_paths(name: str) -> None:
    check_survives("x", name.replace("/", "_"))


@settings(max_examples=40, deadline=None)
@given(value=VALUES, name=NAMES)
def test_any_value_and_path(value: str, name: str) -> None:
    check_survives(value, name)


@pytest.mark.parametrize("said", ["requeue", "Welcome to n1!\\nrequeue"])
def test_messages_around_what_other_programs_answer(tmp_path: Path, said: str) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >"$RECORD/decision"\nprintf "{said}\\n"\n')
    python.chmod(0o755)
    for name, text in {"scontrol": 'echo "$@" >"$RECORD/requeued"', "sleep": ""}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = PurePosixPath(tmp_path)
    job = Job(LaunchConfig(), "trial", path, path, str(python), ["a = 1\n"], path)
    script = batch_script(job).replace("set -euo", f"PATH={tmp_path}:$PATH; set -euo")
    arguments, _, _ = run_script(script, tmp_path)
    assert f"--rdzv-endpoint=host1:{20000 + 7}" in arguments
    assert (tmp_path / "decision").read_text().split()[-5:] == ["0", "0", "RUNNING", "0", "single"]
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def parse_directive(line: str) -> str:
    """The value of an #SBATCH line as sbatch reads it (slurm/src/common/slurm_opt.c)."""
    text = line.removeprefix("#SBATCH ")
    value, quote, index = "", "", 0
    # a space ends it even after a backslash, unless quoted
    while index < len(text) and (quote or text[index] not in " \t\v\f\r"):
        char = text[index]
        if char == "\\":
            index += 1
            value += text[index]
        elif quote and char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote = char
        elif not quote and char == "#":
            return value
        else:
            value += char
        index += 1
    return value


@settings(max_examples=200, deadline=None)
@given(name=NAMES)
def test_any_path_in_a_directive(name: str) -> None:
    path = PurePosixPath("/shared") / name
    job = Job(LaunchConfig(), "trial", path, path, "python", ["a = 1\n"], path)
    try:
        lines = directives(job)
    except LaunchError:
        assert re.search(r"[\x00-\x1f\x7f%\\]", name)
        return
    (line,) = [line for line in lines if "--chdir" in line]
    assert parse_directive(line) == f"--chdir={path}"


def test_secrets_of_this_environment_are_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef-secret")
    path = PurePosixPath("/shared")
    script = batch_script(Job(LaunchConfig(), "trial", path, path, "python", [""], path))
    assert "WANDB" not in script
    assert shutil.which("bash") is not None
    assert os.environ["WANDB_API_KEY"] not in script
