"""The server's Prometheus metrics, parsed by prometheus_client."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vestal.client.errors import ServerFailed, UnknownMetric
from vestal.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client import Metric

_PARTS = {"histogram": ("_count", "_sum", "_bucket"), "summary": ("_count", "_sum")}
_OWN_LABELS = ("model_name", "model_version", "hostname", "type", "le")
"""Labels of the metrics ts_... (TorchServe) and vestal_... that have no samples yet."""


@dataclass(frozen=True)
class MetricSample:
    """One line of the page: `ts_inference_requests_total{model_name="mnist"} 7`.

    The label of the host is always `hostname`, although TorchServe also writes `Hostname`.
    """

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class ServerMetrics:
    """Every sample of a page, in its order.

    `names`: maps each name that `find` and `total` accept to the name of its samples; includes
    metrics without samples.
    """

    samples: tuple[MetricSample, ...]
    names: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[MetricSample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def find(self, name: str, /, **labels: str) -> tuple[MetricSample, ...]:
        """Return the samples of a metric whose labels have these values.

        Raises UnknownMetric if the server does not have the metric, or the metric not the label.
        """
        if name not in self.names:
            raise self._unknown(name)
        samples = [sample for sample in self.samples if sample.name == self.names[name]]
        labels = {_label(label): value for label, value in labels.items()}
        known = {label for sample in samples for label in sample.labels}
        if not samples and name.startswith(("ts_", "vestal_")):
            known = set(_OWN_LABELS)
        for label in labels if known else ():
            if label not in known:
                raise UnknownMetric(
                    f"metric {name} has no label {label!r}",
                    hint=_suggest(label, known, "Its labels are"),
                )
        return tuple(sample for sample in samples if labels.items() <= sample.labels.items())

    def total(self, name: str, /, **labels: str) -> float:
        """Return the sum of the samples that `find` returns; 0 without samples.

        `metrics.total("ts_inference_requests_total", model_name="mnist")`. Raises UnknownMetric.
        """
        return sum(sample.value for sample in self.find(name, **labels))

    def _unknown(self, name: str) -> UnknownMetric:
        if not self.names:
            return UnknownMetric(
                f"there is no metric {name}: the server's metrics page is empty",
                hint="It needs metrics_mode=prometheus in config.properties",
            )
        parts = [name + part for part in _PARTS["histogram"] if name + part in self.names]
        if parts:
            message = f"{name} is a histogram or a summary and has no single value"
            return UnknownMetric(message, hint=f"Use {', '.join(parts)}")
        hint = _suggest(name, self.names, "The page has")
        return UnknownMetric(f"the server has no metric {name}", hint=hint)

    @staticmethod
    def check_installed() -> None:
        """Raises UsageError if prometheus_client is not installed."""
        if find_spec("prometheus_client") is None:
            raise UsageError(
                "client.metrics() needs prometheus_client, which is not installed: "
                "pip install 'vestal[metrics]' (client.metrics_text() needs nothing)"
            )

    @classmethod
    def parse(cls, page: str) -> ServerMetrics:
        """Parse a page in Prometheus' text format; raises ServerFailed for any other text."""
        from prometheus_client.parser import text_string_to_metric_families

        try:
            families = list(text_string_to_metric_families(page))
            samples = tuple(
                MetricSample(
                    sample.name,
                    {_label(label): value for label, value in sample.labels.items()},
                    float(sample.value),
                )
                for family in families
                for sample in family.samples
            )
            return cls(samples, dict(_names(families)))
        except (IndexError, KeyError, ValueError) as error:
            raise ServerFailed(
                f"the metrics page is not in Prometheus' text format, it begins {page[:40]!r}",
                hint="Is it the metrics address (usually port 8082)?",
            ) from error


def _names(families: Iterable[Metric]) -> Iterator[tuple[str, str]]:
    for family in families:
        if family.type == "counter":  # the parser adds the suffix to names that lack it
            yield family.name, f"{family.name}_total"
            yield f"{family.name}_total", f"{family.name}_total"
        elif family.type not in _PARTS:
            yield family.name, family.name
        for part in _PARTS.get(family.type, ()):
            yield family.name + part, family.name + part
        for sample in family.samples:
            yield sample.name, sample.name


def _label(name: str) -> str:
    return "hostname" if name == "Hostname" else name


def _suggest(name: str, known: Iterable[str], list_of: str) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3) or [n for n in names if name in n][:3]
    return f"Did you mean {' or '.join(near)}?" if near else f"{list_of} {', '.join(names)}"
