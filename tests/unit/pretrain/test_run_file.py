"""Run files: what is read is what was written, and every mistake is named."""

from pathlib import Path

import pytest

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.parallel.layout_checks import check_layout
from pretrain.run_file import dump_run, load_run
from spectral.presets import PRESETS

RECIPES = sorted((Path(__file__).parents[3] / "pretrain" / "recipes").glob("*.toml"))


def _write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_resolved_run_is_a_run_file(recipe: Path, tmp_path: Path) -> None:
    run = load_run(recipe)
    assert load_run(_write(tmp_path, dump_run(run))) == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstep = 3", r"unknown key train\.step \(did you mean steps\?\)"),
        ("[trian]", r"unknown key trian \(did you mean train\?\)"),
        ("[model]\ndim = 'big'", r"model\.dim: .*valid integer.*found 'big'"),
        ("[parallel]\nzero_stage = 4", r"parallel\.zero_stage: .*found 4"),
        ("[model]\ndim = 10", "model: dim must be a multiple of num_heads, got dim=10"),
        ("[train]\nglobal_batch_size = 6", "got 6 and 4"),
        (
            "[train]\nsteps = 20",
            "optim.warmup_steps is 50, a warm-up of 50 steps, and train.steps 20",
        ),
        ("[optim]\nwarmup_share = 1.0", "expected a shorter warm-up, at most 999 steps"),
        (
            "[optim]\nschedule = 'wsd'\ndecay_steps = 960",
            "optim.decay_steps is 960: a warm-up of 50 and a decay of 960 steps are longer than "
            "train.steps 1000; expected a decay of at most 950 steps, or train.steps 1010",
        ),
        (
            "[optim]\nschedule = 'wsd'\ndecay_share = 0.96",
            "optim.decay_share is 0.96: a warm-up of 50 and a decay of 960 steps",
        ),
        ("[train]\nbatch_warmup = [[9, 4], [5, 4]]", r"batch_warmup has the steps \[9, 5\]; exp"),
        ("[train]\nlength_warmup = [[1000, 64]]", "lasts until step 1000 of train.steps 1000"),
        ("[train]\nbatch_warmup = [[9, 6]]", "has 6 windows before step 9; expected a multiple of"),
        (
            "[optim]\nschedule = 'linear'\ndecay_start = 1000",
            "optim.decay_start is 1000 and train.steps 1000; expected a step before the end",
        ),
        ("[health]\nhang_timeout_s = inf", r"health\.hang_timeout_s: .*finite.*found inf"),
        ("[health]\nhang_timeout_s = 1e14", r"health\.hang_timeout_s: .*31536000, found 1000"),
        ("[optim]\nlearning_rate = inf", r"optim\.learning_rate: .*finite.*found inf"),
        ("[optim]\nbeta2 = 1.0", r"optim\.beta2: .*less than 1, found 1\.0"),
        ("[optim]\nbeta1 = -0.1", r"optim\.beta1: .*greater than or equal to 0, found -0\.1"),
        ("[data.storage]\ntimeout_s = nan", r"data\.storage\.timeout_s: .*finite.*found nan"),
        ("[model\n", "not a TOML file: "),
        ("[train]\nsteps = true", r"train\.steps: .*valid integer, found True"),
        ("[train]\nsteps = '300'", r"train\.steps: .*valid integer, found '300'"),
        ("[train]\nsteps = 300.0", r"train\.steps: .*valid integer, found 300\.0"),
        ("[optim]\nlearning_rate = true", r"optim\.learning_rate: .*valid number, found True"),
        ("[data]\nshuffle = 1", r"data\.shuffle: .*valid boolean, found 1"),
        ("[model]\nmixers = ['wavelet']\n[model.wavelet]\nlevels = '3'", r"wavelet\.levels: .*'3'"),
        ("[train]\nsteps = " + "9" * 5000, "not a TOML file: "),
        ("[train]\nsteps = 9223372036854775808", "an integer of more than 64 bits"),
        ("a = " + "[" * 5000, "nested deeper than 20 levels"),
        ("a." * 3000 + "b = 1", "nested deeper than 20 levels"),
        ("a = " + "[" * 30 + "]" * 30, "nested deeper than 20 levels"),
        ("[train]\noutput = 's3://bucket/run'", "expected a path on this machine, found the URL"),
        ('[train]\noutput = "a\\u0000"', "train.output: expected a path, found"),
        ("[model]\npreset = 'huge'", "model.preset is 'huge'; expected one of tiny, small"),
    ],
)
def test_a_wrong_key_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(RunError, match=message) as error:
        load_run(path)
    assert str(path) in str(error.value)


def test_a_preset_gives_way_to_the_files_own_keys(tmp_path: Path) -> None:
    run = load_run(_write(tmp_path, "[model]\npreset = 'small'\nnum_layers = 3"))
    assert (run.model.dim, run.model.num_layers) == (PRESETS["small"].model.dim, 3)
    assert load_run(_write(tmp_path, dump_run(run))) == run


def test_integers_are_numbers_and_lists_are_lists(tmp_path: Path) -> None:
    text = "[optim]\nlearning_rate = 1\n[model]\nmixers = ['heads', 'fft']\n[train]\noutput = 'x'"
    run = load_run(_write(tmp_path, text))
    assert (run.optim.learning_rate, run.train.output) == (1.0, Path("x"))
    assert run.model.mixers == ("heads", "fft")


def test_a_missing_run_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent\.toml: no such run file"):
        load_run(tmp_path / "absent.toml")


def test_a_batch_that_does_not_divide_names_the_nearest_that_do() -> None:
    with pytest.raises(RunError, match=r"is 8; expected .* = 4 x 3, for example 12"):
        check_layout(RunConfig(), 3)
    check_layout(RunConfig(), 2)
