"""What the command line answers at once, before anything heavy is imported."""

from collections.abc import Sequence

from divtrain.version import __version__

USAGE = f"""\
divtrain {__version__}: train ensembles whose members do not fail together, and measure it.

  divtrain run PRESET        train, attack, evaluate, report; the same command resumes;
                             --only table2 | coherence | gaas | detection: that part alone
  divtrain presets [NAME]    the presets, or one in full
  divtrain train PRESET      only train, into the same run directory
  divtrain sweep PRESET      train and evaluate at several values, e.g. --gal-weight 0 0.5 1
  divtrain evaluate          a report card of saved or importable models
  divtrain report RUN        write the report of a run again; --format latex | csv | json
  divtrain compare RUN RUN   the differences of two runs, image by image
  divtrain show RUN          draw gradients, attacks, and who is fooled where
  divtrain export MODEL OUT  write a model for other runtimes, as OUT.pt2 or OUT.onnx
  divtrain doctor            look at this machine

`divtrain COMMAND --help` and `divtrain run PRESET --help` list every option.
Start with `divtrain run digits`: no download, about a minute."""


def quick_answer(words: Sequence[str]) -> str | None:
    """Return what to print for no words, for help or the version; None for a command.

    >>> quick_answer(["--version"]) == __version__, quick_answer(["run", "digits"])
    (True, None)
    """
    if not words or words[0] in ("-h", "--help"):
        return USAGE
    return __version__ if words[0] == "--version" else None
