"""Find errors in TorchServe's logs."""

from __future__ import annotations

import os

from vestal.server.logs import Logs, exception_line, tail

TIME = "2026-11-22T19:42:40,771"
WORKER = "org.pytorch.serve.wlm.WorkerThread"


def write(folder, name, *lines):
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def test_versions_with_a_dead_worker_are_found(tmp_path):
    write(
        tmp_path,
        "ts_log.log",
        f"{TIME} [INFO ] W-9000-my_net_1.0 {WORKER} - Connecting to: /tmp/x/.ts.sock.9000",
        f"{TIME} [INFO ] W-9001-my_net_2.0 {WORKER} - Retry worker: 9001 in 1 seconds.",
    )
    assert Logs(tmp_path, 0).deaths() == {("my_net_2.0", "9001"): 1}


def test_the_output_of_one_version_is_selected(tmp_path):
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
    assert Logs(tmp_path, 0).worker_lines("net_1.0", ["9001"]) == []


def test_logs_of_the_previous_run_are_ignored(tmp_path):
    write(tmp_path, "ts_log.log", f"{TIME} [INFO ] W-9000-net_1.0 {WORKER} - Retry worker: 9000")
    os.utime(tmp_path / "ts_log.log", (100, 100))
    assert Logs(tmp_path, 101).deaths() == {}


def test_lines_before_a_position_are_ignored_until_the_file_is_rotated(tmp_path):
    retry = f"{TIME} [INFO ] W-9000-net_1.0 {WORKER} - Retry worker: 9000 in 1 seconds."
    write(tmp_path, "ts_log.log", retry)
    logs = Logs(tmp_path, 0).from_now()
    assert logs.deaths() == {}
    with (tmp_path / "ts_log.log").open("a") as file:
        file.write(retry.replace("net_1.0", "net_2.0") + "\n")
    assert logs.deaths() == {("net_2.0", "9000"): 1}
    (tmp_path / "ts_log.log").rename(tmp_path / "ts_log.1.log")
    write(tmp_path, "ts_log.log", retry.replace("net_1.0", "net_3.0"))
    assert logs.deaths() == {("net_3.0", "9000"): 1}


def test_workers_that_torchserve_has_given_up_are_found(tmp_path):
    """As TorchServe 0.12 logs it, with maxRetryTimeoutInSec: 3."""

    def line(worker, text):
        return f"{TIME} [INFO ] W-{worker} {WORKER} - {text}"

    write(
        tmp_path,
        "ts_log.log",
        line("9000-net_1.0", "Retry worker: 9000 in 1 seconds."),
        line("9000-net_1.0", "Connecting to: /tmp/x/.ts.sock.9000"),
        line("9000-net_1.0", "Auto recovery failed again"),
        line("9001-net_1.0", "Auto recovery failed again"),
        line("9001-net_1.0", "Retry worker: 9001 in 2 seconds."),
        line("9002-net_2.0", "Auto recovery failed again"),
        line("9002-net_2.0", "Connecting to: /tmp/x/.ts.sock.9002"),
    )
    assert Logs(tmp_path, 0).workers_given_up() == {("net_1.0", "9000")}


def test_the_port_that_could_not_be_bound_is_found(tmp_path):
    write(
        tmp_path,
        "console.log",
        "java.io.IOException: Failed to bind to address: http://127.0.0.1:8081",
    )
    assert Logs(tmp_path, 0).unbound_port() == 8081


def test_the_cause_is_not_torchserves_attempt_to_import_its_own_handler():
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


def test_a_message_has_the_last_lines_of_a_log(tmp_path):
    log = tmp_path / "ts_log.log"
    assert tail(log, map(str, range(30))) == [
        f"End of {log}:",
        *(f"    {number}" for number in range(10, 30)),
    ]
    assert tail(log, []) == [f"{log} has no lines about it."]
