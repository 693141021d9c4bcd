"""A run directory: the resolved config, a log, a folder for each stage, and the report.

Nothing else in divtrain reads or writes one. Files are whole or absent, and a stage counts as
done only if its manifest carries the stage's key and the digest of every file it names: that which
tensors were sealed with as they were written, so that it need not be taken twice, or SHA-256.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.experiments.lock import Holder, Lock
from divtrain.experiments.stages import (
    COHERENCE,
    DETECTION,
    GAAS_FILE,
    HISTORY,
    JUDGED,
    MASKS,
    OUTCOMES,
    RECORDS,
    SCRATCH,
    ZEROS,
    Stage,
)
from divtrain.fields import from_json
from divtrain.files import (
    make_folder,
    read_sealed_json,
    read_tensors,
    reading,
    storage_error,
    stored_seal,
    write_sealed_json,
)
from divtrain.version import versions

CONFIG = "config.json"
LOCKS = "locks"
LOG = "log.txt"
MANIFEST = "manifest.json"
PLAN = "stages.json"
REPORTED = (RECORDS, MASKS, COHERENCE, GAAS_FILE, DETECTION, HISTORY, JUDGED, OUTCOMES, ZEROS)
"""Files of stages that a report is made of."""
PATIENCE = 60.0
"""Seconds to wait for who writes config and plan, which takes milliseconds."""
LONGEST_NAME = 255
"""Bytes of a file's name, on nearly every file system."""
FREE_TO_CHANGE = (
    "data.root",
    "seeds",
    "targets",
    "attack.names",
    "attack.eps",
    "attack.white_box",
    "attack.surrogates",
    "train.save_every",
    "train.by_member",
    "train.devices",
    "train.strategy",
    "train.cuda_graph",
    "train.outside",
    "train.static_nets",
    "train.adv_step",
    "gaas.images",
    "gaas.orders",
    "gaas.eps",
    "gaas.objective",
    "gaas.targets",
    "detection.images",
    "detection.against",
    "detection.targets",
    "group",
)
"""Fields that may differ from one command to the next on the same directory: where files lie, how
much is run, and what a stage's key tells apart; what was computed before stays right."""

CAME_LATER: dict[str, Any] = {"data.held_out": 0}
"""Fields that runs of earlier versions lack, with the value that those runs were made with."""


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk.

    Attributes:
        path: The folder.
    """

    path: Path

    def enter(self, config: dict[str, Any], stages: Sequence[Stage], whole: bool = True) -> None:
        """Make the folder, or take up what is there, and write config and plan down.

        Other processes may work in it, with the same command or another: the last command counts
        for what a report is of.

        Args:
            config: Fields by flag name, from `flatten`.
            stages: The graph.
            whole: Whether a report is to be of these stages alone. If not, it stays of what an
                earlier command planned, as long as that was made from the same stages.

        Raises:
            DivtrainError: when the folder holds something else or another config, naming the
                fields that differ, or cannot be written.
        """
        self.check(config)
        lock = Lock(make_folder(self.path / LOCKS), "config")
        with lock.held(PATIENCE) as mine:
            if not mine:
                raise DivtrainError(
                    f"{self.path} is being opened by {lock.holder() or 'another process'} and has"
                    f" been for {PATIENCE:.0f} s; if that process is gone, remove {lock.file}"
                )
            self.check(config)
            make_folder(self.path / "stages")
            write_sealed_json(self.path / CONFIG, config)
            keys = {stage.name: stage.key for stage in stages}
            if not whole and (self.path / PLAN).exists():
                before = self._read_plan()
                if all(before.get(name, key) == key for name, key in keys.items()):
                    keys = {**before, **keys}
            write_sealed_json(self.path / PLAN, {"stages": keys})

    def is_open(self) -> bool:
        """Whether a run is here, as seen from this machine."""
        return (self.path / CONFIG).exists()

    @contextmanager
    def claimed(self, stage: Stage) -> Iterator[bool]:
        """Claim a stage while the context is open; yields False if another process has it."""
        with self._lock(stage).held() as mine:
            yield mine

    def holder(self, stage: Stage) -> Holder | None:
        """Who has claimed a stage."""
        return self._lock(stage).holder()

    def _lock(self, stage: Stage) -> Lock:
        return Lock(self.path / LOCKS, f"stage-{stage.name}")

    def check(self, config: dict[str, Any]) -> None:
        """Check that the folder is this run's, or free; `enter` does, this is for before.

        Raises:
            DivtrainError: as `enter` does for what the folder holds.
        """
        file = self.path / CONFIG
        if file.exists():
            before = self.read_config()
            holds, comes = (_kind(each) for each in (before, config))
            if holds != comes:
                raise DivtrainError(
                    f"{self.path} holds {holds}, and this would be {comes}; choose another folder"
                    " with --out, or give the command that made it to go on with that"
                )
            different = [
                f"{_flag(name)} is {_value(config, name)} now, was {_value(before, name)}"
                for name in dict.fromkeys([*config, *before])
                if not _free(name) and _get(before, name) != _get(config, name)
            ]
            if different:
                raise DivtrainError(
                    f"{self.path} was made with another config: {'; '.join(different)}. Choose"
                    " another folder with --out, or give the same values to go on with this run"
                )
        elif (
            self.path.is_dir()
            and any(map(_foreign, self.path.iterdir()))
            and not self._holds_stages()
            and not file.exists()  # written by another process, a moment ago
        ):
            raise DivtrainError(
                f"{self.path} is not empty and holds no run (no {CONFIG}); choose another folder"
                " with --out"
            )

    def _holds_stages(self) -> bool:
        """Whether this is a run whose config.json somebody deleted, say because it was damaged."""
        return any((self.path / "stages").glob("*/key"))

    def read_config(self) -> dict[str, Any]:
        """Return the config that the run was made with.

        Raises:
            DivtrainError: when there is no run here, or the file is damaged.
        """
        file = self.path / CONFIG
        if not file.exists():
            raise DivtrainError(f"no run at {self.path}: it has no {CONFIG}")
        return read_sealed_json(file)

    def finished(self) -> list[Path]:
        """Folders of the stages that are done, in the order of the graph.

        Raises:
            DivtrainError: when there is no run here; `DamagedFileError` when what a report would
                be made of is not what a stage wrote.
        """
        self.read_config()
        done: list[Path] = []
        for stage, key in self._read_plan().items():
            folder = self.path / "stages" / stage
            if not (folder / MANIFEST).exists():
                continue
            manifest = read_manifest(folder)
            if manifest["key"] != key:
                continue  # an earlier command's, to be done anew
            done.append(folder)
            for name, digest in manifest["files"].items():
                if name in REPORTED and not _is_whole(folder / name, digest):
                    raise DamagedFileError(
                        f"{folder / name} is damaged: it is not what its stage wrote; run the same"
                        " command again, which makes it anew"
                    )
        return done

    def _read_plan(self) -> dict[str, str]:
        """Keys of the stages by name, in the order of the graph."""
        file = self.path / PLAN
        with reading(file):
            plan = from_json(dict[str, str], read_sealed_json(file)["stages"], file)
            return {_plain(name): key for name, key in plan.items()}

    def folder(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.path / "stages" / stage.name

    def begin(self, stage: Stage) -> Path:
        """Make the folder of a claimed stage, for `Stage.work` to begin or go on in.

        Files of a stage with another key are removed, and those that were being written when a
        process was killed.
        """
        folder = make_folder(self.folder(stage))
        marker = folder / "key"
        try:
            same = marker.is_file() and marker.read_bytes() == stage.key.encode()
            for file in folder.iterdir():
                if not same or file.name.startswith("."):
                    file.unlink()
            if not same:
                marker.write_text(stage.key)
        except OSError as error:
            raise storage_error(folder, error) from error
        return folder

    def check_unchanged(self, stages: Sequence[Stage]) -> None:
        """Check that the folders of stages are still theirs, and not begun for other keys.

        Raises:
            DivtrainError: when another command has begun one of them anew.
        """
        for stage in stages:
            marker = self.folder(stage) / "key"
            if not marker.is_file() or marker.read_text() != stage.key:
                raise DivtrainError(
                    f"{self.folder(stage)} was begun anew by another command with other values;"
                    " wait until that is done and give this command again, or choose another folder"
                    " with --out"
                )

    def finish(self, stage: Stage, seconds: float) -> None:
        """Write the manifest that marks the stage as done, and remove what let it go on."""
        folder = self.folder(stage)
        files = {
            file.name: stored_seal(file) or _sha256(file)
            for file in sorted(folder.iterdir())
            if file.name not in ("key", MANIFEST) and not file.name.startswith((".", *SCRATCH))
        }
        manifest = {
            "key": stage.key,
            "stage": stage.name,
            "config": stage.config,
            "inputs": [each.name for each in stage.inputs],
            "files": files,
            "seconds": round(seconds, 2),
            "versions": versions(),
        }
        write_sealed_json(folder / MANIFEST, manifest)
        self.tidy(stage)

    def tidy(self, stage: Stage) -> None:
        """Remove from a stage that is done the files that let it go on."""
        for file in self.folder(stage).iterdir():
            if file.name.startswith(SCRATCH):
                file.unlink(missing_ok=True)

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage ran with this key and its files are still what it wrote."""
        folder = self.folder(stage)
        try:
            manifest = read_manifest(folder)
        except DivtrainError:
            return False
        same = manifest["key"] == stage.key
        return same and all(_is_whole(folder / n, h) for n, h in manifest["files"].items())

    def log(self, line: str) -> None:
        """Append a line with the time to log.txt."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        file = self.path / LOG
        try:
            with file.open("a") as log:
                log.write(f"{stamp} {line}\n")
        except OSError as error:
            raise storage_error(file, error) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a stage that is done: key, config, files and their hashes, seconds.

    Raises:
        DivtrainError: when there is none; `DamagedFileError` when it is not what `finish` wrote.
    """
    file = folder / MANIFEST
    manifest = read_sealed_json(file)
    with reading(file):
        from_json(str, manifest["key"], file)
        from_json(float, manifest["seconds"], file)
        from_json(dict[str, Any], manifest["config"], file)
        for name in from_json(dict[str, str], manifest["files"], file):
            _plain(name)
    return manifest


def _plain(name: str) -> str:
    """Return the name of a file or folder if it is one, and no path to elsewhere."""
    one = Path(name).name == name and name not in ("", "..")
    if not one or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"{name[:80]!r} is no name of a file")
    return name


def _is_whole(file: Path, digest: str) -> bool:
    """Whether a file's content fits the digest in a manifest: tensors' seal, or its SHA-256."""
    try:
        if not file.is_file():
            return False
        if stored_seal(file) == digest:
            read_tensors(file)  # checks the content against the seal
            return True
        return _sha256(file) == digest
    except (OSError, DivtrainError):
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _free(name: str) -> bool:
    """Whether a field may change; a sweep's values stand in the keys of its stages."""
    return name in FREE_TO_CHANGE or name.startswith("sweep.")


def _kind(config: dict[str, Any]) -> str:
    """What a config is of, in words."""
    kind = str(config.get("kind", "run"))
    known = {"run": "a run", "sweep": "a sweep", "evaluate": "an evaluation"}
    return known.get(kind, f"something else ({kind})")


def _foreign(file: Path) -> bool:
    """Whether a file is none of those that a run makes before its config."""
    return file.name not in (LOCKS, "stages") and not file.name.startswith(f".{CONFIG}.")


def _get(config: dict[str, Any], name: str) -> Any:
    return config.get(name, CAME_LATER.get(name))


def _flag(name: str) -> str:
    return name if " " in name else f"--{name.replace('_', '-')}"


def _value(config: dict[str, Any], name: str) -> str:
    value = config.get(name, CAME_LATER.get(name, "absent"))
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
