"""What a terminal shows of a run, also when several stages are under way at once."""

import io

from rich.console import Console

from divtrain.experiments import TerminalProgress


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
    for line in ("reused train-a", "done   train-c  1.2 s", "3/10", "loss 2.000", "2/4",
                 "waiting for train-d: process 7 on node-3"):  # fmt: skip
        assert line in shown
    assert "late news" not in out.getvalue()
    assert "4/4" in out.getvalue()
