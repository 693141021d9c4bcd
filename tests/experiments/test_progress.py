"""What a terminal shows of a run, also when several stages are under way at once."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from divtrain.experiments import LineProgress, TerminalProgress


def test_every_stage_ends_as_a_line_and_those_under_way_have_a_bar_each() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    with TerminalProgress(console) as progress:
        progress.plan(4)
        progress.reused("train-a")
        for stage in ("train-b", "train-c", "train-b"):  # b began again: its worker was lost
            progress.begin(stage)
        progress.update("train-b", 3, 10, "loss 2.000")
        progress.update("train-c", 5, 7, "loss 1.000")
        progress.end("train-c", 1.25)
        progress.update("train-c", 7, 7, "late news of what is done")
        progress.waiting("train-d", "process 7 on node-3 since then")
        progress._bars.refresh()
        shown = out.getvalue()
        progress.end("train-b", 2.0)
        progress.end("train-d", 3.0)  # over before anything was heard of it
    for line in (
        "1/4 reused train-a", "2/4 done train-c 1.2 s: loss 1.000", "3/10", "loss 2.000", "left",
        "waiting for train-d: process 7 on node-3",
    ):  # fmt: skip
        assert line in shown
    assert "late news" not in out.getvalue()
    assert "4/4" in out.getvalue()


def test_80_columns_hold_the_time_left_and_what_is_done_so_far() -> None:
    out = io.StringIO()
    with TerminalProgress(Console(file=out, force_terminal=True, width=80)) as progress:
        progress.plan(40)
        progress.begin("attack-surrogate-1b6a0412-base-mifgsm-ce_of_mean_logit-0.1-s0")
        progress.begin("train-div-s0")
        for step in (1, 41):
            progress.update("train-div-s0", step, 80, "accuracy 0.750  coherence 0.575  GAL 2.559")
        progress._bars.refresh()
    lines = Console(width=80).render_lines(progress._bars.get_renderable())
    shown = ["".join(part.text for part in line).rstrip() for line in lines]
    assert max(map(len, shown)) <= 80
    (training,) = [line for line in shown if line.startswith("train-div-s0")]
    assert "41/80" in training
    assert "0:00:0" in training
    assert "accuracy 0.7" in training


def test_off_a_terminal_every_stage_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(Path("runs/x/log.txt"))
    progress.plan(2)
    progress.reused("train-a")
    progress.begin("evaluate-a")
    progress.update("evaluate-a", 1, 2, "")
    progress.update("evaluate-a", 2, 2, "clean 90.0 %")
    progress.end("evaluate-a", 2.04)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "running 2 stages; more is in runs/x/log.txt",
        "1/2 reused train-a",
        "2/2 done evaluate-a in 2.0 s: clean 90.0 %",
    ]
