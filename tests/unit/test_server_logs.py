"""What TorchServe's logs tell of a worker that died."""

from __future__ import annotations

import os

from vestal.server.logs import Logs, exception_line, quote

TIME = "2026-11-22T19:42:40,771"
WORKER = "org.pytorch.serve.wlm.WorkerThread"


def write(folder, name, *lines):
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def test_versions_whose_worker_died(tmp_path):
    write(
        tmp_path,
        "ts_log.log",
        f"{TIME} [INFO ] W-9000-my_net_1.0 {WORKER} - Connecting to: /tmp/x/.ts.sock.9000",
        f"{TIME} [INFO ] W-9001-my_net_2.0 {WORKER} - Retry worker: 9001 in 1 seconds.",
    )
    assert Logs(tmp_path, 0).died() == {"my_net_2.0"}


def test_what_the_workers_of_one_version_printed(tmp_path):
    write(
        tmp_path,
        "model_log.log",
        f"{TIME} [INFO ] W-9000-net_1.0-stdout MODEL_LOG - Traceback (most recent call last):",
        f"{TIME} [WARN ] W-9001-net_2.0-stderr MODEL_LOG - not mine",
        f"{TIME} [INFO ] W-9000-net_1.0-stdout MODEL_LOG -   File 'x'",
        f"{TIME} [INFO ] W-9000-net_1.0-stdout MODEL_LOG - ",
        f"{TIME} [WARN ] W-9000-net_1.0-stderr MODEL_LOG - mine",
    )
    assert Logs(tmp_path, 0).worker_lines("net_1.0") == [
        "Traceback (most recent call last):",
        "  File 'x'",
        "",
        "mine",
    ]


def test_the_run_before_is_not_read(tmp_path):
    write(tmp_path, "ts_log.log", f"{TIME} [INFO ] W-9000-net_1.0 {WORKER} - Retry worker: 9000")
    os.utime(tmp_path / "ts_log.log", (100, 100))
    assert Logs(tmp_path, 101).died() == set()


def test_the_port_that_was_taken(tmp_path):
    write(
        tmp_path,
        "console.log",
        "java.io.IOException: Failed to bind to address: http://127.0.0.1:8081",
    )
    assert Logs(tmp_path, 0).unbound_port() == 8081


def test_the_cause_is_not_torchserves_search_among_its_own_handlers():
    lines = [
        "Traceback (most recent call last):",
        '  File "handler.py", line 1, in <module>',
        "    import nothing",
        "ModuleNotFoundError: No module named 'nothing'",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "model_loader.py", line 110, in load',
        "ModuleNotFoundError: No module named 'ts.torch_handler.handler'",
    ]
    assert exception_line(lines) == 3
    assert exception_line(lines[7:]) is None
    assert exception_line(["Torch worker started."]) is None


def test_a_log_is_quoted_by_its_end(tmp_path):
    log = tmp_path / "ts_log.log"
    assert quote(log, map(str, range(30))) == [
        f"The end of {log}:",
        *(f"    {number}" for number in range(10, 30)),
    ]
    assert quote(log, []) == [f"{log} says nothing of it."]
