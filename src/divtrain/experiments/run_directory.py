"""A run directory: config, log, a folder for each stage, and the report.

Files are whole or absent. A stage is done if its manifest holds its key and the SHA-256 of every
file it wrote; then its files are trusted. Any number of processes may work on one directory: a lock
for each stage, and one around config and plan, are all they need.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.experiments.batch_cache import PREFIX
from divtrain.experiments.blueprints import BLUEPRINTS, Blueprint
from divtrain.experiments.lock import Holder, Lock
from divtrain.experiments.manifest import CODE, FinishedStage, Manifest, is_whole, manifest_of
from divtrain.experiments.stage import Stage
from divtrain.experiments.stages.train import STATE
from divtrain.fields import from_json, to_json
from divtrain.files import (
    file_digest,
    make_folder,
    read_json,
    reading,
    storage_error,
    write_json,
)
from divtrain.version import versions

CONFIG = "config.json"
PLAN = "stages.json"
MANIFEST = "manifest.json"
LOCKS = "locks"
LOG = "log.txt"
PATIENCE = 60.0
"""Seconds to wait for another process to write config and plan, which takes milliseconds."""
SCRATCH = (STATE, PREFIX, "processes")
"""How the names of files begin that let a stage resume; they are removed once it is done."""
INPUTS = "one of its inputs has changed"
KINDS = {"run": "a run", "sweep": "a sweep", "evaluate": "an evaluation"}


@dataclass(frozen=True)
class Request:
    """The config of a run directory, and its command.

    Attributes:
        kind: ``run``, ``sweep`` or ``evaluate``.
        blueprint: What every process builds the same graph from, as JSON.
        command: The command line or call it came from.
    """

    kind: str
    blueprint: Any
    command: str


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk.

    Attributes:
        path: The folder.
    """

    path: Path

    def open(
        self, blueprint: Blueprint, stages: Sequence[Stage], command: str = "", note: str = ""
    ) -> list[str]:
        """Write the config and the plan; results of earlier commands stay.

        Results of other stages stay, so a later command may ask for more seeds, targets or attacks.
        A command that only trains leaves the config and plan of an earlier one that trains the
        same stages alike.

        Args:
            blueprint: What is asked for.
            stages: Its graph.
            command: How it was asked for.
            note: A line for the log, if there is something to say.

        Returns:
            A line for each reason to do stages again, if there are any.

        Raises:
            DivtrainError: when the folder holds something else, or an ensemble trained in another
                way under the name of one of these stages; or when it cannot be written.
        """
        self.check(blueprint, stages)
        lock = Lock(make_folder(self.path / LOCKS), "plan")
        with lock.held(PATIENCE) as mine:
            if not mine:
                raise DivtrainError(
                    f"{self.path} has been locked by {lock.holder() or 'another process'} for"
                    f" {PATIENCE:.0f} s; if that process is gone, remove {lock.file}"
                )
            self.check(blueprint, stages)
            make_folder(self.path / "stages")
            plan = {stage.name: stage.key for stage in stages}
            if not self._continues(blueprint, plan):
                request = Request(blueprint.kind, to_json(blueprint), command)
                write_json(self.path / CONFIG, asdict(request))
                write_json(self.path / PLAN, plan)
        again: dict[str, list[str]] = {}
        for stage in stages:
            for reason in self._changes(stage):
                again.setdefault(reason, []).append(stage.name)
        lines = [f"again {', '.join(names)}: {reason}" for reason, names in again.items()]
        for line in [note, *lines] if note else lines:
            self.log(line)
        return lines

    def check(self, blueprint: Blueprint, stages: Sequence[Stage]) -> None:
        """Check that the folder is free, or of the same kind; `open` does, this is for before.

        Raises:
            DivtrainError: as `open` does.
        """
        if self.is_open():
            before = self._request().kind
            if before != blueprint.kind:
                raise DivtrainError(
                    f"{self.path} holds {KINDS[before]}, and this would be {KINDS[blueprint.kind]};"
                    " choose another folder with --out"
                )
        elif (
            self.path.is_dir()
            and not (self.path / PLAN).exists()  # of a run whose damaged config was deleted
            and any(map(_foreign, self.path.iterdir()))
            and not self.is_open()  # written by another process, a moment ago
        ):
            raise DivtrainError(
                f"{self.path} is not empty and holds no run (no {CONFIG}); choose another folder"
                " with --out"
            )
        for stage in stages:
            changed = [line for line in self._changes(stage) if line not in (CODE, INPUTS)]
            if any(line.startswith("spec.fingerprint ") for line in changed):
                changed = [f"the images of {stage.spec['data']} were others, in content or choice"]
            if changed and stage.kind == "train":
                raise DivtrainError(
                    f"{self.path} holds {stage.name}, trained with other settings:"
                    f" {'; '.join(changed)}. Choose another folder with --out, or give the same"
                    " values to resume this run"
                )

    def _continues(self, blueprint: Blueprint, plan: Mapping[str, str]) -> bool:
        """Whether a command only trains stages of the plan, in the way the config says."""
        if not getattr(blueprint, "only_train", ()) or not (self.path / PLAN).exists():
            return False
        before, now = to_json(self.blueprint()), to_json(blueprint)
        same = before["config"]["train"] == now["config"]["train"]  # the processes read it there
        return same and plan.items() <= self._read_plan().items()

    def is_open(self) -> bool:
        """Whether a run is here, as seen from this machine.

        Raises:
            DivtrainError: for a path that cannot be one: too long, or no UTF-8.
        """
        try:
            str(self.path).encode()
            return (self.path / CONFIG).exists()
        except (UnicodeEncodeError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise DivtrainError(
                f"{str(self.path)!r} cannot be a run directory: {reason}; choose another path"
            ) from error

    def blueprint(self) -> Blueprint:
        """Return the blueprint of the last command.

        Raises:
            DivtrainError: when there is no run here, or the file is damaged.
        """
        request = self._request()
        return from_json(BLUEPRINTS[request.kind], request.blueprint, self.path / CONFIG)

    def command(self) -> str:
        """Return the last command, as it was given."""
        return self._request().command

    def _request(self) -> Request:
        if not self.is_open():
            raise DivtrainError(f"no run at {self.path}: it has no {CONFIG}")
        file = self.path / CONFIG
        request = from_json(Request, read_json(file), file)
        with reading(file):
            if request.kind not in KINDS:
                raise ValueError(f"kind is {request.kind!r}, expected one of {', '.join(KINDS)}")
        return request

    def _read_plan(self) -> dict[str, str]:
        """Keys of the stages by name, in the order of the graph."""
        return from_json(dict[str, str], read_json(self.path / PLAN), self.path / PLAN)

    def finished(self, stages: Sequence[Stage] | None = None) -> list[FinishedStage]:
        """Those of some stages that are done, in their order; of the plan if None.

        Raises:
            DivtrainError: when there is no run here, or a file is damaged.
        """
        self._request()
        found: list[FinishedStage] = []
        plan = self._read_plan() if stages is None else {each.name: each.key for each in stages}
        for name, key in plan.items():
            manifest = self._read_manifest(name)
            if manifest is None and stages is None and (self.path / "stages" / name).exists():
                raise DamagedFileError(
                    f"{self.path / 'stages' / name} has no readable {MANIFEST}; give the command of"
                    " the run again, which computes this stage anew"
                )
            if manifest is not None and manifest.key == key and manifest.files is not None:
                folder = self.path / "stages" / name
                found.append(FinishedStage(**vars(manifest), folder=folder))
        return found

    @contextmanager
    def claimed(self, stage: Stage) -> Iterator[bool]:
        """Claim a stage while the context is open; yields False if another process has it."""
        with self._lock(stage).held() as mine:
            yield mine

    def holder(self, stage: Stage) -> Holder | None:
        """Who has claimed a stage."""
        return self._lock(stage).holder()

    def _lock(self, stage: Stage) -> Lock:
        return Lock(self.path / LOCKS, stage.name)

    def folder(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.path / "stages" / stage.name

    def begin(self, stage: Stage) -> Path:
        """Make the folder of a claimed stage, to begin or resume in.

        Files of a stage with another key are removed, and those that were being written when a
        process was killed.
        """
        folder = make_folder(self.folder(stage))
        manifest = self._read_manifest(stage.name)
        same = manifest is not None and manifest.key == stage.key
        try:
            for file in folder.iterdir():
                if file.name.startswith(".") or not (same and file.name.startswith(SCRATCH)):
                    file.unlink()
        except OSError as error:
            raise storage_error(folder, error) from error
        write_json(folder / MANIFEST, asdict(manifest_of(stage)))
        return folder

    def check_unchanged(self, stages: Sequence[Stage]) -> None:
        """Check that no folder of these stages was begun under another key.

        Raises:
            DivtrainError: when another command has begun one of them again.
        """
        for stage in stages:
            manifest = self._read_manifest(stage.name)
            if manifest is None or manifest.key != stage.key:
                raise DivtrainError(
                    f"{self.folder(stage)} was begun again by another command with other values;"
                    " wait until that is done and give this command again, or choose another folder"
                    " with --out"
                )

    def finish(self, stage: Stage, seconds: float) -> None:
        """Write the manifest that marks the stage as done, and remove its files for resuming."""
        folder = self.folder(stage)
        files = {
            file.name: file_digest(file)
            for file in sorted(folder.iterdir())
            if file.name != MANIFEST and not file.name.startswith((".", *SCRATCH))
        }
        done = {"files": files, "seconds": round(seconds, 2), "versions": versions()}
        write_json(folder / MANIFEST, {**asdict(manifest_of(stage)), **done})
        self.tidy(stage)

    def tidy(self, stage: Stage) -> None:
        """Remove a finished stage's files for resuming."""
        for file in self.folder(stage).iterdir():
            if file.name.startswith(SCRATCH):
                file.unlink(missing_ok=True)

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage was completed under this key and its files are intact."""
        manifest, folder = self._read_manifest(stage.name), self.folder(stage)
        if manifest is None or manifest.key != stage.key or manifest.files is None:
            return False
        return all(is_whole(folder / name, digest) for name, digest in manifest.files.items())

    def log(self, line: str) -> None:
        """Append a line with the time to log.txt."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        file = self.path / LOG
        try:
            with file.open("a") as log:
                log.write(f"{stamp} {line}\n")
        except OSError as error:
            raise storage_error(file, error) from error

    def _read_manifest(self, name: str) -> Manifest | None:
        """Return the manifest of a stage; None where there is none, or a damaged one."""
        file = self.path / "stages" / name / MANIFEST
        if Path(name).name != name or not file.exists():
            return None
        try:
            found = from_json(Manifest, read_json(file), file)
        except DivtrainError:
            return None
        return found if found.fits() else None

    def _changes(self, stage: Stage) -> list[str]:
        """Differences of a stage from the one begun or completed under its name, if any."""
        before = self._read_manifest(stage.name)
        if before is None or before.key == stage.key:
            return []
        return before.changes(stage) or [INPUTS]


def _foreign(file: Path) -> bool:
    """Whether a file is none of those a run makes before its config."""
    return file.name not in (LOCKS, "stages") and not file.name.startswith(f".{CONFIG}.")
