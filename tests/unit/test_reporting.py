"""Status, readiness and metrics of what runs."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families
from test_adopting import KNOWN, desired

from vestal.fleet.actual import Actual, ModelState
from vestal.fleet.gauges import gauges
from vestal.fleet.reporting import model_status, not_ready_reasons
from vestal.fleet.status import ModelStatus, Status, Traffic

VERIFIED = replace(KNOWN, versions={"1.0": replace(KNOWN.versions["1.0"], verified=True)})


def status(state: ModelState | None, *versions: str) -> ModelStatus:
    target = desired(*versions).models["m"] if versions else None
    return model_status("m", target, state, None, None, lambda *_: Traffic())


def reasons(state: ModelState) -> list[str]:
    return not_ready_reasons(desired("1.0"), Actual(models={"m": state}))


def test_a_server_is_ready_when_its_default_versions_are_verified_and_have_a_worker() -> None:
    assert reasons(VERIFIED) == []
    assert reasons(ModelState()) == ["m 1.0: not registered yet"]
    assert reasons(KNOWN) == ["m 1.0: not verified yet"]
    down = replace(VERIFIED.versions["1.0"], ready=0)
    assert reasons(replace(VERIFIED, versions={"1.0": down})) == [
        "m 1.0: none of its workers is READY"
    ]
    assert reasons(ModelState(rejected={"1.0": "it does not load"})) == ["m 1.0: it does not load"]


def test_an_optional_model_does_not_keep_the_server_from_being_ready() -> None:
    target = desired("1.0").models["m"].model_copy(update={"required": False})
    optional = desired("1.0").model_copy(update={"models": {"m": target}})
    assert not_ready_reasons(optional, Actual()) == []


def test_each_version_has_a_state() -> None:
    found = status(VERIFIED, "1.0", "2.0")
    assert [(each.version, each.state) for each in found.versions] == [
        ("1.0", "ready"),
        ("2.0", "starting"),
    ]
    assert found.ready
    rejected = status(replace(VERIFIED, rejected={"2.0": "it is slow"}), "1.0", "2.0")
    assert (rejected.versions[1].state, rejected.versions[1].reason) == ("rejected", "it is slow")
    assert status(KNOWN, "1.0").versions[0].state == "verifying"
    assert status(VERIFIED).versions[0].state in ("draining", "ready")
    lost = replace(VERIFIED.versions["1.0"], ready=0, given_up=True)
    failed = status(replace(VERIFIED, versions={"1.0": lost}), "1.0").versions[0]
    assert (failed.state, failed.workers.given_up) == ("failed", 1)


def test_the_metrics_page_can_be_parsed() -> None:
    page = gauges(
        Status(
            phase="running",
            ready=True,
            converged=False,
            revision=3,
            models=[status(VERIFIED, "1.0")],
        )
    )
    samples = {
        (sample.name, sample.labels.get("state")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["vestal_ready", None] == 1
    assert samples["vestal_converged", None] == 0
    assert samples["vestal_workers", "ready"] == 1
