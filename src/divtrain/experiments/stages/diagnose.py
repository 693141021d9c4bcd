"""Look at a surrogate before it is attacked, once for all targets."""

from divtrain.evaluation import SurrogateCheck, check_surrogate
from divtrain.experiments.stage import Context, Stage
from divtrain.fields import from_json, to_json
from divtrain.files import read_json, write_json

FILE = "diagnosis.json"


def diagnose_stage(model: Stage, seed: int, name: str) -> Stage:
    """Diagnose a model on clean test images; writes what was seen.

    Args:
        model: The stage that yields it.
        seed: Of the experiment.
        name: What the stage's name calls the model.
    """

    def work(context: Context) -> None:
        test = context.dataset.test
        check = check_surrogate(context.load(model), test, name)
        context.on_progress(len(test), len(test), f"clean {100 * check.clean:.1f} %")
        write_json(context.folder / FILE, to_json(check))

    return Stage("diagnose", name, seed, {}, (model,), work, ("divtrain.evaluation",))


def read_diagnosis(context: Context, stage: Stage) -> SurrogateCheck:
    """Read what an input stage made by `diagnose_stage` wrote."""
    file = context.file(stage, FILE)
    return from_json(SurrogateCheck, read_json(file), file)
