"""Evaluations made by hand, their masks known."""

import torch
from torch import Tensor

from divtrain.evaluation import AttackResult, AttackRun, Diagnosis, Evaluation, Passes, Violations
from divtrain.evaluation.evaluation import SurrogateCheck

DIAGNOSIS = Diagnosis(100, 10, 0.0, 0.0, 0.0, True, 0.0, 0.0, False)


def first(count: int, images: int = 100) -> Tensor:
    """Mask of the first so many images."""
    return torch.arange(images) < count


def judged(target: str = "div", seed: int = 0, surrogates: tuple[str, ...] = ("base", "plain"),
           violations: int = 0, white_box: bool = True) -> Evaluation:  # fmt: skip
    """Of 100 images: 95 right when clean, fewer under every next attack."""
    runs = [AttackRun("noise", target, "noise", 0.1)]
    runs += [AttackRun("transfer", name, "mifgsm", 0.1) for name in surrogates]
    runs += [AttackRun("white-box", target, name, 0.1) for name in ("fgsm", "pgd") if white_box]
    runs += [AttackRun("query", target, "square", 0.1, images=50)]
    runs += [AttackRun("white-box", target, "pgd", e, sweep=True) for e in (0, 0.5) if white_box]
    results = {
        run: AttackResult(
            first(90 - 5 * index - seed, run.images or 100), Passes(10, 10),
            Violations(violations, 0, 0),
        )
        for index, run in enumerate(runs)
    }  # fmt: skip
    checks = {name: SurrogateCheck(0.9, DIAGNOSIS) for name in surrogates}
    return Evaluation(target, first(95), results, DIAGNOSIS, seed, checks)
