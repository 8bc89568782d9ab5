"""A folder is written as a whole or not at all, whatever stops the writing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitcompress.artifact import check_place, folder, load
from bitcompress.errors import LoadError, OutputError

FILES = {"model.safetensors": b"codes", "recipe.yaml": b"bits: 2\n", "report.json": b"{}"}


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


def test_all_files_and_a_manifest_of_them(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    folder.write(place, FILES, 1, overwrite=False)
    found = contents(place)
    assert found.keys() == {*FILES, "manifest.json"}
    table = json.loads(found["manifest.json"])
    assert table["format_version"] == 1
    assert table["files"] == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in FILES.items()
    }
    version, rows = folder.read_manifest(place)
    assert version == 1
    assert folder.read_checked(place, "report.json", rows["report.json"]) == b"{}"


def test_the_length_of_a_manifest_is_known_before_the_reports_are() -> None:
    whole = len(folder.manifest(dict.fromkeys(folder.KNOWN, b"report"), 1))
    assert len(folder.manifest(FILES, 1)) == whole
    assert len(folder.manifest({"model.safetensors": bytes(10**6)}, 1)) == whole
    assert len(folder.manifest({**FILES, "more.txt": b""}, 1)) > whole


def test_where_one_may_write(tmp_path: Path) -> None:
    check_place(tmp_path / "new", overwrite=False)
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty", overwrite=False)
    (tmp_path / "empty" / ".resume").mkdir()
    check_place(tmp_path / "empty", overwrite=False)
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"holds notes\.txt: name another folder, or overwrite"):
        check_place(tmp_path / "empty", overwrite=False)
    check_place(tmp_path / "empty", overwrite=True)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors").touch()
    with pytest.raises(OutputError, match="an unfinished run"):
        check_place(tmp_path / "half", overwrite=False)
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="file is a file"):
            folder.write(tmp_path / "file", FILES, 1, overwrite=overwrite)
        with pytest.raises(OutputError, match="cannot be written"):
            folder.write(tmp_path / "file" / "below", FILES, 1, overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is a file"):
        check_place(tmp_path / "dangling", overwrite=True)


def test_overwriting_replaces_and_removes_what_is_ours_alone(tmp_path: Path) -> None:
    folder.write(tmp_path, {**FILES, "report.png": b"old"}, 1, overwrite=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        folder.write(tmp_path, FILES, 1, overwrite=False)
    assert (tmp_path / "report.png").read_bytes() == b"old"
    folder.write(tmp_path, {**FILES, "model.safetensors": b"new"}, 1, overwrite=True)
    found = contents(tmp_path)
    assert found.keys() == {*FILES, "manifest.json", "notes.txt"}
    assert found["model.safetensors"] == b"new"


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", range(7))
def test_whatever_stops_it_a_new_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, call: int
) -> None:
    place = tmp_path / "deep" / "out"
    stop_at(monkeypatch, call, stop)
    kind = OutputError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(kind):
        folder.write(place, FILES, 1, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int, stop: BaseException) -> None:
    """Let the call of that number among fsync and replace fail."""
    count = iter(range(1000))

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            if next(count) == call:
                raise stop
            return original(*args)

        return run

    for name in ("replace", "fsync"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(tmp_path, FILES, 1, overwrite=False)
    before = contents(tmp_path)
    stop_at(monkeypatch, 1, OSError(28, "No space left on device"))
    with pytest.raises(OutputError, match="No space left on device.*nothing half-written"):
        folder.write(tmp_path, {"model.safetensors": b"new"}, 1, overwrite=True)
    assert contents(tmp_path) == before


LIMITED = """
import resource, sys
from pathlib import Path
from bitcompress.artifact import folder
from bitcompress.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for overwrite in (False, True):
    try:
        folder.write(Path(sys.argv[1 + overwrite]), {"model.safetensors": bytes(5000)}, 1,
                     overwrite=overwrite)
    except OutputError as error:
        print(error)
"""


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    folder.write(tmp_path / "old", FILES, 1, overwrite=False)
    before = contents(tmp_path / "old")
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "new"), str(tmp_path / "old")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.count("cannot be written (File too large)") == 2
    assert not (tmp_path / "new").exists()
    assert contents(tmp_path / "old") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from bitcompress.artifact import folder

base, new = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
for kind in ("fresh", "over"):
    for call in range(40):
        child = os.fork()
        if not child:
            count = iter(range(1000))

            def killing(original):
                def run(*args, **kwargs):
                    if next(count) == call:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return original(*args, **kwargs)
                return run

            for name in ("replace", "fsync", "unlink", "mkdir"):
                setattr(os, name, killing(getattr(os, name)))
            files = {"model.safetensors": new, "recipe.yaml": b"bits: 3"}
            folder.write(base / f"{kind}-{call}", files, 1, overwrite=kind == "over")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            print(kind, call)
            break
"""


def test_sigkill_at_any_moment_leaves_the_old_the_new_or_nothing_to_load(
    make: Any, tmp_path: Path
) -> None:
    made = make("edsr")
    old, new = made.save(tmp_path / "old"), tmp_path / "new.safetensors"
    other = made._replace(source=made.source.__class__(**{**vars(made.source), "sha256": "new"}))
    new.write_bytes((other.save(tmp_path / "other") / "model.safetensors").read_bytes())
    base = tmp_path / "base"
    base.mkdir()
    for call in range(40):
        (base / f"over-{call}").mkdir()
        for name, data in contents(old).items():
            (base / f"over-{call}" / name).write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(base), str(new)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    calls = {kind: int(call) for kind, call in (line.split() for line in run.stdout.splitlines())}
    assert calls["fresh"] > 8
    assert calls["over"] > 8
    for kind, finished in calls.items():
        found = [loaded_or_not(base / f"{kind}-{call}") for call in range(finished + 1)]
        first = "nothing" if kind == "fresh" else ""
        assert found[0] == first
        assert found[-1] == "new"
        assert found.index("new") >= len(found) - 2, "the manifest comes last"
        changes = [one for one, two in zip(found, found[1:], strict=False) if one != two]
        assert len(changes) <= 2, f"old, nothing, new, in this order: {found}"
        # Whatever a killed run left, the next one cleans up.
        again = base / f"{kind}-{finished // 2}"
        made.save(again, overwrite=True)
        assert loaded_or_not(again) == ""
        assert not list(again.glob(".*model*"))


def loaded_or_not(place: Path) -> str:
    """The sha256 in the source of the model there, or "nothing"."""
    try:
        return load(place).source.sha256
    except LoadError as error:
        assert (
            "unfinished" in str(error) or "no packed model" in str(error) or "exist" in str(error)
        )
        return "nothing"


def test_two_writers_do_not_mix(make: Any, tmp_path: Path) -> None:
    made = make("edsr")
    data = (made.save(tmp_path / "one") / "model.safetensors").read_bytes()
    barrier = threading.Barrier(4)
    said: list[str] = []

    def writer(number: int) -> None:
        files = {"model.safetensors": data, "recipe.yaml": b"#" * number * 1000}
        for _ in range(5):
            barrier.wait()
            try:
                folder.write(tmp_path / "out", files, 1, overwrite=True)
                said.append("written")
            except OutputError as error:
                said.append(str(error))

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 20
    assert all(s == "written" or "being written by another process" in s for s in said)
    assert "written" in said
    assert torch.equal(made.run(), made.run(load(tmp_path / "out").model))
    _, rows = folder.read_manifest(tmp_path / "out")
    for name, row in rows.items():
        folder.read_checked(tmp_path / "out", name, row)


def signed(place: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    table = json.loads((place / "manifest.json").read_bytes())
    change(table)
    (place / "manifest.json").write_text(json.dumps(table))
    return place


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(format_version=3), "format_version 3, this bitcompress reads 1 to 2"),
        (lambda t: t.update(format_version="1"), "format_version '1', this bitcompress reads 1"),
        (lambda t: t.pop("format_version"), "'format_version' is missing"),
        (lambda t: t.pop("files"), "'files' is missing"),
        (lambda t: t.update(files=[]), "an object is needed"),
        (lambda t: t["files"].pop("model.safetensors"), r"does not name model\.safetensors"),
        (lambda t: t["files"].update({"../x": {}}), "which is no file of the folder"),
        (lambda t: t["files"].update({"a\\x": {}}), "which is no file of the folder"),
        (lambda t: t["files"].update(x=3), "an object is needed"),
        (lambda t: t["files"].update(x={"bytes": -1, "sha256": ""}), "the size of 'x'"),
        (lambda t: t["files"].update(x={"bytes": 1, "sha256": 5}), "the sha256 of 'x'"),
        (lambda t: t["files"]["model.safetensors"].update(sha256="0" * 64), "sha256 differs"),
        (lambda t: t["files"]["model.safetensors"].update(bytes=10), "longer than the 10 bytes"),
        (lambda t: t["files"]["model.safetensors"].update(bytes=1 << 50), "is cut off"),
    ],
)
def test_damaged_manifests(make: Any, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        load(signed(make("edsr").save(tmp_path / "out"), change))


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "not JSON"), ("{", "not JSON"), ("[" * 100_000, "nested too deeply"), ("3", "an object"),
     (" " * ((1 << 20) + 1), "longer than"), ('{"files":1,"files":2}', "stands in it twice")],
)  # fmt: skip
def test_manifests_that_are_none(make: Any, tmp_path: Path, text: str, said: str) -> None:
    place = make("edsr").save(tmp_path / "out")
    (place / "manifest.json").write_text(text)
    with pytest.raises(LoadError, match=said):
        load(place)


def test_folders_that_are_none(make: Any, tmp_path: Path) -> None:
    place = make("edsr").save(tmp_path / "out")
    assert load(place / "model.safetensors").source == load(place).source
    (place / "notes.txt").write_text("an extra file is nobody's business")
    load(place)
    (place / "manifest.json").rename(tmp_path / "manifest.json")
    with pytest.raises(LoadError, match=r"is unfinished: it has no manifest\.json"):
        load(place)
    (place / "model.safetensors").unlink()
    with pytest.raises(LoadError, match="holds no packed model"):
        load(place)
    (tmp_path / "manifest.json").rename(place / "manifest.json")
    with pytest.raises(LoadError, match=r"model\.safetensors is missing"):
        load(place)
    with pytest.raises(LoadError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(LoadError, match="is a file"):
        load(place / "notes.txt")


def test_a_changed_report_is_refused(make: Any, tmp_path: Path) -> None:
    made = make("edsr")
    data = (made.save(tmp_path / "one") / "model.safetensors").read_bytes()
    place = tmp_path / "out"
    folder.write(place, {"model.safetensors": data, "report.json": b'{"a":1}'}, 1, overwrite=False)
    assert load(place).report == {"a": 1}
    (place / "report.json").write_text('{"a":2}')
    with pytest.raises(LoadError, match=r"report\.json was changed"):
        load(place)
