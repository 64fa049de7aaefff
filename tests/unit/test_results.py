"""Committed figures: docs/results.md and the README show result files, and nothing else."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.harness import results
from benchmarks.harness.results import DIRTY, result_path, result_record, start
from benchmarks.harness.thresholds import Figure, Outcome, print_bars
from benchmarks.quality import plan
from benchmarks.quality.stored import RESULTS, disagreement, read_results
from benchmarks.reporting import report, run_all
from benchmarks.reporting.catalogue import benchmark_names

AGAIN = "run `python -m benchmarks.reporting.report`"


def test_results_page_is_the_generated_one() -> None:
    assert report.DOCS.read_text(encoding="utf-8") == report.results_page(), AGAIN


def test_table_of_the_readme_is_the_generated_one() -> None:
    text = report.README.read_text(encoding="utf-8")
    assert text == report.readme_with_table(text), AGAIN
    assert "4.179" in report.readme_table()


def test_table_replaces_all_between_the_markers() -> None:
    text = f"above\n{report.BEGIN}\n| an old figure |\n{report.END}\nbelow\n"
    replaced = report.readme_with_table(text)
    assert "an old figure" not in replaced
    assert replaced.startswith("above\n")
    assert replaced.endswith("\nbelow\n")
    with pytest.raises(SystemExit, match="results: begin"):
        report.readme_with_table("above\nbelow\n")


@pytest.mark.parametrize("path", [p for p in map(result_path, benchmark_names()) if p.exists()])
def test_result_is_of_a_commit(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["benchmark"] == path.stem
    assert record["commit"] != "unknown"
    assert not record["commit"].endswith(DIRTY)


def test_committed_quality_results_are_of_the_planned_runs() -> None:
    budget, corpus = plan.BUDGETS["full"], plan.CORPORA[0]
    stored = read_results(RESULTS)
    planned: list[plan.Run] = []
    for label in plan.ABLATIONS:
        for seed in budget.seeds:
            run = plan.ablation(budget, corpus, label, seed)
            name = f"{plan.ablation_name(label)}-long-seed{seed}"
            planned += [run, run._replace(name=name, steps=budget.steps)]
    for task in plan.RECALL_SETTINGS:
        planned += plan.recall(budget, *task)
    for result in stored.values():
        if result["task"] in plan.CORPORA and result["size"] == "small":
            planned.append(
                plan.swept(budget, result["task"], result["kind"], result["rate"], result["seed"])
            )
    best = report.best_rates(stored.values(), plan.CORPORA, budget)
    planned += [run for name in best for run in plan.repeats(budget, name, best[name])]
    runs = {run.name: run for run in planned}
    assert len(stored) > 80
    assert {name for name in stored if name not in runs} == set()
    assert {name: disagreement(runs[name], stored[name]) for name in stored} == dict.fromkeys(
        stored
    )


def test_only_changed_sources_outdate_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        user = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *user, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(results, "ROOT", tmp_path)
    for folder in ("benchmarks", "spectral", "out"):
        (tmp_path / folder).mkdir()
    for name in ("benchmarks/mixer.py", "benchmarks/data.py", "spectral/lm.py", "README.md"):
        (tmp_path / name).write_text("1")
    git("init")
    git("add", "benchmarks", "spectral", "README.md")
    git("commit", "--message=first")
    path = tmp_path / "out" / "mixer.json"
    assert not results.is_current(path)
    path.write_text(json.dumps({"commit": results.commit("mixer")}))
    assert results.is_current(path)
    # others' sources and documents do not matter, committed or not
    (tmp_path / "benchmarks/data.py").write_text("2")
    assert results.is_current(path)
    (tmp_path / "README.md").write_text("2")
    git("commit", "--all", "--message=second")
    assert results.is_current(path)
    (tmp_path / "spectral/lm.py").write_text("2")
    assert not results.is_current(path)
    assert results.commit("mixer").endswith(DIRTY)
    git("commit", "--all", "--message=third")
    assert not results.is_current(path)
    path.write_text(json.dumps({"commit": results.commit("mixer")}))
    assert results.is_current(path)


@pytest.mark.parametrize(
    ("status", "writes", "end"),
    [
        (0, True, "holds"),
        (1, True, "falls short"),
        (1, False, "failed"),
        (2, False, "failed"),
        (77, False, "no device"),
    ],
)
def test_a_crash_is_not_a_bar_that_falls_short(
    status: int, writes: bool, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mixer.json"

    def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        assert command[1:] == ["-m", "benchmarks.mixer", "--json", str(path)]
        assert cwd == results.ROOT
        if writes:
            path.write_text("{}")
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(run_all, "result_path", lambda name: tmp_path / f"{name}.json")
    monkeypatch.setattr(run_all, "is_current", lambda path: path.exists())
    monkeypatch.setattr(run_all.subprocess, "run", run)
    assert run_all.run_one("mixer") == end
    assert run_all.run_one("mixer") == ("current" if writes else end)


def test_bars_hold_or_fall_short(capsys: pytest.CaptureFixture[str]) -> None:
    figures = [
        Figure("speed", 2.0, limit=1.5),
        Figure("memory", 2.0, limit=1.5, at_most=True),
        Figure("size", 7.0, "MiB"),
    ]
    assert [figure.holds for figure in figures] == [True, False, None]
    assert not print_bars(figures, judged=True)
    assert print_bars(figures[:1], judged=True)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "bar: speed: 2 (>= 1.5): holds",
        "bar: memory: 2 (<= 1.5): falls short",
    ]
    assert print_bars(figures, judged=False)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ([Figure("speed", float("nan"))], "speed: expected a number, found nan"),
        ([Figure("speed", 1.0), Figure("speed", 2.0)], "expected unique names"),
    ],
)
def test_figures_are_numbers_with_unique_names(figures: list[Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result_record("mixer", "Speed.", Outcome("", figures), start("mixer"))
