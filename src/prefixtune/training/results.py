"""The result folder: what a run leaves behind, each file written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from prefixtune.errors import CheckpointError, ConfigError

CHECKPOINTS = "checkpoints"
RUN = "run.yaml"
RECORD = "run.json"
METRICS = "metrics.json"
ANSWERS = "answers"
HISTORY = "log_history.jsonl"
PLOT = "training.png"
FREE = ("output", "report_to", "keep_checkpoints", "eval_batch_size")
"""Settings that may change when a run is resumed: they do not reach its numbers."""
_OF_A_BASE = ("config.json", "*.safetensors", "*.bin", "tokenizer*", "vocab*", "merges.txt", "*.model")
_SAMPLES, _SAMPLE = 256, 4096
"""How many places of a file are read, and how many bytes at each."""
RERUN = "One run of prefixtune, whole: prefixtune train run.yaml --output ANOTHER_FOLDER"
_LIBRARIES = (
    "prefixtune", "torch", "transformers", "accelerate", "datasets", "safetensors", "sacrebleu", "rouge-score",
    "seqeval", "scikit-learn", "numpy",
)  # fmt: skip


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: to a temporary name in the same folder, then renamed over."""
    if (stream := _stream(path)) is not None:
        stream.write(text)
        stream.flush()
        return
    if path.exists() and not path.is_file():  # a pipe or a device: it stays, and is written to
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}."[:60])
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _stream(path: Path) -> TextIO | None:
    """The process's own output where `path` names it, as /dev/stdout does, also where that is sent to a file."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(number)):
                return stream
    return None


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def jsonl(values: Iterable[Any]) -> str:
    """One JSON value a line."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def is_finished(output: Path) -> bool:
    """Whether a run has come to its end in this folder."""
    return (output / METRICS).is_file() and (output / RUN).is_file()


def open_folder(output: Path, *, resume: bool) -> None:
    """Refuse a folder that this run must not write to; a `ConfigError` says what to do."""
    check_folder(output)
    held = [path for path in output.rglob("*") if not _of_no_run(path, output)] if output.is_dir() else []
    if not held:
        return
    if not (output / RUN).is_file():
        raise ConfigError(f"--output {output} is not empty and holds no run; choose another folder")
    if not resume:
        raise ConfigError(f"--output {output} already holds a run; continue it with --resume or choose another folder")


@contextlib.contextmanager
def alone(record: Path) -> Iterator[None]:
    """One process at a time works in the folder of `record`. Raises ConfigError for a second; a killed one is none."""
    from filelock import FileLock, Timeout

    file = record.with_name(f".{record.name}.lock")
    record.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"--output {record.parent}: another process works in this folder; wait for its end, or choose another"
        ) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def check_folder(output: Path) -> None:
    """Raise ConfigError when the folder `output` cannot be made or written to, as where a file stands."""
    _check_place((output, *output.parents), f"--output {output}")


def check_new_folder(output: Path) -> None:
    """Raise ConfigError when `output` is not a new or an empty folder."""
    check_folder(output)
    if output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"--output {output} is not empty; choose another folder")


def check_file(path: Path | None, option: str) -> None:
    """Raise ConfigError when no file can be written at `path`, before the work that it is to hold."""
    if path is None:
        return
    if _stands(path, f"{option} {path}"):
        if path.is_dir():
            raise ConfigError(f"{option} {path} is a folder; expected a file to write")
        if not path.is_file():  # a pipe or a device
            return
    _check_place(path.resolve().parents, f"{option} {path}")


def check_files(written: Mapping[str, Path | None], read: Mapping[str, Sequence[str | Path]]) -> None:
    """`check_file` of all that is written, by option, and a ConfigError where one is another or what is `read`."""
    seen = {_place(path): option for option, paths in read.items() for path in paths}
    for option, path in written.items():
        check_file(path, option)
        if path is None or (path.exists() and not path.is_file()):
            continue
        if (other := seen.setdefault(_place(path), option)) != option:
            raise ConfigError(f"{option} {path} is the file of {other}; expected another, or one would be lost")


def files_of(model: str | None, prefixes: Iterable[str]) -> dict[str, list[Path]]:
    """The files that no output may replace, by option: all of a base's folder, and what a run left of a prefix."""
    from prefixtune.checkpoint import CONFIG, TENSORS

    base = [path for path in Path(model).glob("*") if path.is_file()] if model is not None else []
    own = (TENSORS, CONFIG, RUN, RECORD, METRICS, HISTORY, PLOT)
    return {"--model": base, "--prefix": [Path(folder) / name for folder in prefixes for name in own]}


def _place(path: str | Path) -> Path:
    return Path(path).resolve()


def _check_place(places: Sequence[Path], told: str) -> None:
    """Raise ConfigError unless the first of `places` that is there is a folder in which something can be made."""
    for place in places:
        if not _stands(place, told):
            continue
        if not place.is_dir():
            raise ConfigError(f"{told}: {place} is a file; expected a folder")
        try:
            tempfile.TemporaryDirectory(dir=place).cleanup()
        except OSError as error:
            raise ConfigError(f"{told}: cannot write in {place} ({error.strerror}); choose another") from error
        return


def _stands(place: Path, told: str) -> bool:
    """Whether there is something. Raises ConfigError for a name that nothing can have."""
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise ConfigError(f"{told}: no such name can be used ({error}); choose another") from error
    return True


def _of_no_run(path: Path, output: Path) -> bool:
    """What a run leaves that dies before `run.yaml` is written: an empty folder, the record, a half-written file."""
    half_written = path.parent == output and path.name.startswith((f".{RECORD}.", f".{RUN}."))
    return half_written or path == output / CHECKPOINTS or (path == output / RECORD and not (output / RUN).is_file())


def check_same_run(
    output: Path, settings: Mapping[str, Any], data: Mapping[str, Any], base: str | None, free: Sequence[str] = FREE
) -> None:
    """A resumed run must be the run that was begun, but for settings that are `free`; a `ConfigError` names the first
    one that differs."""
    try:
        stored = yaml.safe_load((output / RUN).read_text(encoding="utf-8"))
        record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{output} holds no readable {RUN} and {RECORD} ({error}); use another folder") from error
    for key in sorted({*stored, *settings} - set(free)):
        if stored.get(key) != settings.get(key):
            raise ConfigError(
                f"--resume: {key} is {settings.get(key)!r} but the run in {output} has {stored.get(key)!r}; "
                "resume with the same settings, or start another run in another folder"
            )
    _check_same_data(output, record, data)
    check_same_base(record, base, output)


def check_same_data(output: Path, data: Mapping[str, Any]) -> None:
    """A run that is taken as it is must be of the data that are there now; a `ConfigError` names what differs."""
    try:
        record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{output} holds no readable {RECORD} ({error}); use another folder") from error
    _check_same_data(output, record, data)


def _check_same_data(output: Path, record: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    for role, facts in data.items():
        if record["data"].get(role) != facts:
            raise ConfigError(f"--resume: the {role} data changed since the run in {output} began; start another run")


def record_run(
    output: Path, settings: Mapping[str, Any], data: Mapping[str, Any], command: Sequence[str],
    facts: Mapping[str, Any], origin: str = RERUN,
) -> None:  # fmt: skip
    """Write `run.yaml` (headed by `origin`) and `run.json` (with versions, data digests and the command)."""
    write_json(
        output / RECORD,
        {
            "command": list(command),
            "settings": dict(settings),
            "seed": settings["seed"],
            "data": dict(data),
            "versions": versions(),
            **facts,
        },
    )
    write_text(output / RUN, f"# {origin}\n" + yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def versions() -> dict[str, str]:
    """Versions of Python and of every library that reaches a number, and a digest of this package's own files, which
    change in a checkout without a new version."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "prefixtune source": _source()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _source() -> str:
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read_metrics(output: Path) -> dict[str, Any]:
    """What a finished run measured."""
    try:
        return json.loads((output / METRICS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{output / METRICS} is not valid JSON ({error})") from error


def write_answers(output: Path, answers: Mapping[str, Sequence[Any]]) -> None:
    """What a model answered to its tests, each in `answers/NAME.jsonl`: a row (text to text: a source) a line."""
    for name, given in answers.items():
        write_text(output / ANSWERS / f"{name}.jsonl", jsonl(given))


def read_answers(output: Path, tests: Mapping[str, int]) -> dict[str, list[Any]]:
    """What a finished run of an experiment answered to its tests, so many answers to each.

    Raises CheckpointError where they are not there, or not as many.
    """
    found = {}
    for name, count in tests.items():
        file = output / ANSWERS / f"{name}.jsonl"
        try:
            found[name] = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
            if len(found[name]) != count:
                raise ValueError(f"{len(found[name])} answers; expected {count}")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"the answers in {file} cannot be scored again ({error}); leave --rescore out, or run the experiment "
                "in another folder"
            ) from error
    return found


def base_digest(model: str) -> str | None:
    """What tells the files of a base model from others: names, sizes and samples of their bytes. None for a hub id."""
    if not Path(model).is_dir():
        return None
    found = hashlib.sha256()
    for path in sorted({path for pattern in _OF_A_BASE for path in Path(model).glob(pattern) if path.is_file()}):
        size = path.stat().st_size
        found.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for start in range(0, size, max(size // _SAMPLES, 1)):
                file.seek(start)
                found.update(file.read(_SAMPLE))
    return found.hexdigest()


def check_same_base(record: Mapping[str, Any], base: str | None, folder: Path) -> None:
    """Raise ConfigError where what a `record` tells of was begun over other files of the base model."""
    if record.get("base") not in (None, base):  # records of before name none
        raise ConfigError(f"--resume: files of its base changed since the run in {folder} began; start another run")


def digest(path: str) -> str | None:
    """SHA-256 of a data file; None for a data set of the hub."""
    if not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_checkpoint(output: Path) -> Path | None:
    """The newest training checkpoint that was written to its end; half-written ones (a kill) are removed."""
    folders = (output / CHECKPOINTS).glob("checkpoint-*")
    for folder in sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:  # Trainer writes this file last
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(folder)
        else:
            return folder
    return None


def write_history(output: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Trainer's log, one JSON object a line."""
    write_text(output / HISTORY, jsonl(history))


def read_history(output: Path) -> list[dict[str, Any]]:
    """Trainer's log as it was written; empty where there is none."""
    file = output / HISTORY
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
