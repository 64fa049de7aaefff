"""transformers' common model tests pass on our model, and each that is skipped has its reason.

They are not in its wheel: the source distribution of the installed version is asked of the package
index. Its `exporters` and `generation` test folders are not in it either.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).parents[2]
# reason -> why it holds of this model, or of this machine
REASONS = {
    r"test requires (multiple )?accelerator": "no GPU here",
    r"test requires (Flash Attention|MPS|the kernels library)": "no GPU here",
    r"test is slow": "transformers runs it nightly",
    r"(does not support|do not output|does not output|doesn't output).*attention": "none",
    r"[Mm]odel (architecture )?does not (support|output) .*attentions": "there is no attention",
    r"support sdpa|has_attentions": "there is no attention",
    r"position embeddings": "positions are rotary phases, computed",
    r"(composite|subconfigs|experts|router_logits|grouped_mm)": "one configuration, no experts",
    r"(base_model_class|decoder-only|sequence-to-sequence|MODEL_MAPPING|prioritized)": "is no "
    "member of the library",
    r"layers are plain modules": "said there",
    r"capture_outputs|Cannot capture hidden states": "the backbone returns them without hooks",
    r"No conversion found|TP plan": "weights need no conversion; tensor parallelism is Resonance's",
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `hf_tests` can be imported."""
    folder = tmp_path_factory.mktemp("suite")
    wanted = f"transformers=={transformers.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    result = subprocess.run(
        [*command, "--dest", str(folder), wanted], capture_output=True, text=True
    )
    if result.returncode:
        pytest.skip(f"the source distribution of {wanted} is not to be had: {result.stderr[-200:]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "source", filter="data")
    tests = next((folder / "source").glob("*/tests"))
    package = folder / "hf_tests"
    shutil.copytree(tests, package)
    for module, name in (
        ("exporters/test_export", "Export"),
        ("generation/test_utils", "Generation"),
    ):
        stub = package / f"{module}.py"
        if not stub.exists():
            stub.parent.mkdir(exist_ok=True)
            (stub.parent / "__init__.py").touch()
            stub.write_text(f"class {name}TesterMixin:\n    pass\n")
    (package / "__init__.py").touch()
    return folder


@pytest.mark.slow
def test_the_common_model_tests_pass(suite: Path) -> None:
    # among transformers' tests, whose markers this repository does not know
    shutil.copyfile(Path(__file__).with_name("transformers_suite.py"), suite / "test_resonance.py")
    flags = ["-q", "-rs", "-p", "no:cacheprovider", "-W", "ignore", "-c", os.devnull]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, "--rootdir", str(suite), "test_resonance.py"],
        capture_output=True,
        text=True,
        cwd=suite,
        env={**os.environ, "PYTHONPATH": f"{suite}{os.pathsep}{ROOT}", "COLUMNS": "400"},
    )
    assert result.returncode == 0, result.stdout[-4_000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed
    assert int(passed[1]) >= 65, result.stdout[-500:]
    skips = re.findall(r"^SKIPPED \[(\d+)\] [^:]*:\d+: (.*)$", result.stdout, re.MULTILINE)
    unexplained = Counter(
        {
            reason: int(count)
            for count, reason in skips
            if not any(re.search(pattern, reason) for pattern in REASONS)
        }
    )
    assert skips
    assert not unexplained, unexplained
