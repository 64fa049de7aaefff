"""Everything that needs a GPU, on a machine with one: `make test-gpu` or

    python -m tests.gpu [--output FOLDER]

Kernels on all dtypes, tuned, against the float64 reference; training, checkpoints, resumption and
generation; benchmarks/gpu. The figures are written to FOLDER/gpu.json and FOLDER/gpu.md. Exit
status: 0 if all is well, 1 if a part failed, 77 if there is no GPU. `--device cpu` goes through
the same at tiny sizes, with interpreted kernels: `make test-all` does.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
# as benchmarks/harness/command.py: what test harnesses call a skipped test
NO_GPU_STATUS = 77


def parts(device: str, output: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Arguments of Python and environment variables of each part."""
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    kernels = [*pytest, "tests/kernels/interpreter_lane.py"]
    training = [*pytest, "tests/gpu/training_lane.py"]
    if device == "cpu":
        return {
            "kernels": ([*kernels, "-m", "not slow"], {"TRITON_INTERPRET": "1"}),
            "training": (training, {"CUDA_VISIBLE_DEVICES": ""}),
            "benchmarks": (["-m", "benchmarks.gpu", "--quick"], {}),
        }
    figures = ["--json", str(output / "gpu.json"), "--table", str(output / "gpu.md")]
    on_gpu = {"RESONANCE_TEST_DEVICE": "cuda", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return {
        "kernels": (kernels, on_gpu),
        "training": (training, on_gpu),
        "benchmarks": (["-m", "benchmarks.gpu", *figures], {}),
    }


def main() -> int:
    """Run all parts, one after the other, whether or not an earlier one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--output", type=Path, metavar="FOLDER", default=ROOT / "build" / "gpu")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("tests.gpu: no GPU here (torch.cuda.is_available() is false)", file=sys.stderr)
        return NO_GPU_STATUS
    arguments.output.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, (words, variables) in parts(arguments.device, arguments.output.resolve()).items():
        print(f"== {name}: python {' '.join(words)}", flush=True)
        begin = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        status = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment).returncode
        if status:
            failed.append(name)
        print(f"== {name}: status {status}, {time.perf_counter() - begin:,.0f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all parts are well", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
