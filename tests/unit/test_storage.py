"""Full disks and folders that cannot be written to: one sentence, and no incomplete file."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vestal.errors import VestalError
from vestal.files.disk_errors import (
    check_writable,
    describe_disk_error,
    raise_if_disk_full,
)
from vestal.files.storage import atomic_write, scratch_folder, write_text

FULL_KIB = 8
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with space for two pages."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FULL_KIB}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def vestal(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vestal", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@ROOT
def test_a_full_disk_is_named_with_its_folder(small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(b"x" * FULL_KIB * 1024)
    done = vestal("new", "thing", "--task", "image_classifier", cwd=small_disk)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"vestal: the disk is full: no space left in {small_disk}. Free some space, and try again\n"
    )
    assert not (small_disk / "models" / "thing").exists()
    with pytest.raises(VestalError, match=rf"no space left in {small_disk}\."):
        check_writable(small_disk)


@ROOT
def test_a_server_whose_folder_is_full_does_not_start(small_disk: Path) -> None:
    (small_disk / "model_store").mkdir()
    manifest = json.dumps({"model": {"modelName": "m", "modelVersion": "1.0"}})
    with zipfile.ZipFile(small_disk / "model_store" / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", manifest)
    (small_disk / "fill").write_bytes(b"x" * (FULL_KIB * 1024 - 4096))
    done = vestal("serve", "--port", "0", cwd=small_disk)
    assert done.returncode == 1
    assert f"vestal: the disk is full: no space left in {small_disk}" in done.stderr
    assert "Traceback" not in done.stderr
    assert [each.name for each in (small_disk / ".vestal").iterdir()] == ["logs"]


@ROOT
def test_a_file_is_written_completely_or_not_at_all(small_disk: Path) -> None:
    target = small_disk / "table.txt"
    write_text(target, "before")
    with pytest.raises(OSError, match="No space left"):
        write_text(target, "x" * FULL_KIB * 2048)
    assert target.read_text() == "before"
    assert [each.name for each in small_disk.iterdir()] == ["table.txt"]


def test_scratch_folders_of_killed_processes_are_removed_and_others_kept(tmp_path):
    waits = (
        "import sys, time; from pathlib import Path\n"
        "from vestal.files.storage import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1]), '.packing-') as made:\n"
        "    (made / 'half').write_text('x'); print(made, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", waits, str(tmp_path)]
    made, processes = [], []
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout
        made.append(Path(process.stdout.readline().strip()))
        process.stdout.close()
    killed, working = processes
    killed.kill()
    killed.wait()
    for folder in made:
        os.utime(folder, (0, 0))  # as if they were old
    with scratch_folder(tmp_path, ".packing-") as own:
        assert sorted(tmp_path.iterdir()) == sorted([own, made[1]])
    working.terminate()
    working.wait()


@ROOT
def test_a_full_disk_that_a_library_only_logs_is_an_error(small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(b"x" * FULL_KIB * 1024)
    with pytest.raises(OSError, match="No space left"), atomic_write(small_disk / "trace.json"):
        pass


@ROOT
def test_the_output_of_a_process_that_failed_on_a_full_disk_is_recognized(small_disk: Path) -> None:
    output = "OSError: [Errno 28] No space left on device"
    with pytest.raises(VestalError, match=rf"no space left in {small_disk}\."):
        raise_if_disk_full(output, small_disk)
    raise_if_disk_full("ValueError: other", small_disk)


@ROOT
def test_a_read_only_file_system_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = vestal("new", "thing", "--task", "image_classifier", cwd=small_disk)
    assert done.returncode == 1
    assert done.stderr.startswith(f"vestal: {small_disk}: read-only file system. Choose")
    done = vestal("serve", cwd=small_disk)
    assert "Traceback" not in done.stderr


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))

    done = vestal("new", "thing", "--task", "image_classifier", cwd=tmp_path, preexec_fn=limit)
    assert done.returncode == 1
    assert "larger than this process may write (`ulimit -f`)" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_a_full_stdout_gives_no_traceback(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vestal", "--help"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("vestal: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_messages_of_libraries_about_a_full_disk_are_recognized(error: Exception) -> None:
    outer = VestalError("the weights cannot be saved")
    outer.__context__ = error
    for each in (error, outer):
        assert "disk" in (describe_disk_error(each) or "")


@pytest.mark.parametrize(
    "error", [ValueError("no space"), FileNotFoundError(2, "x", "y"), VestalError("other")]
)
def test_other_errors_are_not_described(error: Exception) -> None:
    assert describe_disk_error(error) is None


def test_a_missing_permission_is_named_with_the_folder(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out.csv"))
    assert (describe_disk_error(error) or "").startswith(f"{tmp_path}: permission denied. Change")
    assert describe_disk_error(error, denied=False) is None
