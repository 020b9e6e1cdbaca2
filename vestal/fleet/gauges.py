"""The keeper's own metrics, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from vestal.fleet.status import Status

_VERSION = ("model_name", "model_version")


def gauges(status: Status) -> str:
    """Return the metrics page of the keeper."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"vestal_{name}", text, labels, registry=registry)

    gauge("ready", "Every required version is READY and verified.").set(status.ready)
    gauge("converged", "Everything runs as desired, or cannot.").set(status.converged)
    gauge("revision", "Number of the desired state.").set(status.revision)
    gauge("torchserve_restarts", "Restarts of TorchServe.").set(status.torchserve_restarts)
    gauge("memory_free_bytes", "Memory that new workers may use.").set(status.memory_free)
    workers = gauge("workers", "Workers by state.", (*_VERSION, "state"))
    memory = gauge("memory_bytes", "Resident memory of the workers.", _VERSION)
    pending = gauge("queue_pending", "Requests in the queue.", _VERSION)
    default = gauge("default_version", "1 for the default version.", _VERSION)
    rejected = gauge("rejected_version", "1 for a version that was rejected.", _VERSION)
    for model in status.models:
        for version in model.versions:
            names = model.name, version.version
            for state, count in version.workers:
                workers.labels(*names, state).set(count)
            memory.labels(*names).set(version.memory)
            pending.labels(*names).set(version.pending)
            default.labels(*names).set(version.default)
            rejected.labels(*names).set(version.state == "rejected")
    return generate_latest(registry).decode()
