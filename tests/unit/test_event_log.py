"""The keeper's events."""

from __future__ import annotations

import threading

from vestal.fleet.event_log import MOST_EVENTS, EventLog


def numbers(log: EventLog, after: int, timeout: float = 0.0) -> list[int]:
    return [event.number for event in log.after(after, timeout)]


def test_events_after_a_number_are_returned_at_once() -> None:
    log = EventLog()
    for text in "abc":
        log.add("note", text, revision=1)
    assert numbers(log, 0) == [1, 2, 3]
    assert numbers(log, 2) == [3]
    assert numbers(log, 3) == []


def test_a_reader_waits_for_new_events_until_the_log_is_closed() -> None:
    log = EventLog()
    found: list[int] = []
    reader = threading.Thread(target=lambda: found.extend(numbers(log, 0, 60)))
    reader.start()
    for text in "ab":
        log.add("note", text, revision=1)
    log.close()
    reader.join(30)
    assert found == [1, 2]


def test_only_the_last_events_are_kept() -> None:
    log = EventLog()
    for _ in range(MOST_EVENTS + 5):
        log.add("note", "", revision=1)
    assert numbers(log, 0)[0] == 6
