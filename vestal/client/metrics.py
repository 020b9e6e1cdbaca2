"""The Prometheus page as numbers, read by prometheus_client's parser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from vestal.client.errors import Facts, ServerFailed
from vestal.errors import UsageError


@dataclass(frozen=True)
class Sample:
    """One line of the page: `ts_inference_requests_total{model_name="mnist"} 7`."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Metrics:
    """Every sample of a page, in its order."""

    samples: tuple[Sample, ...]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def find(self, name: str, /, **labels: str) -> tuple[Sample, ...]:
        """The samples of that name whose labels have these values; none where there are none."""
        return tuple(
            sample
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def total(self, name: str, /, **labels: str) -> float:
        """Their sum; 0 where there are none, since a counter is not on the page before its start.

        `metrics.total("ts_inference_requests_total", model_name="mnist")`
        """
        return sum(sample.value for sample in self.find(name, **labels))

    @staticmethod
    def check_installed() -> None:
        """Raises UsageError where prometheus_client is missing."""
        if find_spec("prometheus_client") is None:
            raise UsageError(
                "client.metrics() needs prometheus_client, which is not installed: "
                "pip install 'vestal[metrics]' (client.metrics_text() needs nothing)"
            )

    @classmethod
    def parse(cls, page: str) -> Metrics:
        """Reads a page in Prometheus' text format; raises ServerFailed where it is none."""
        from prometheus_client.parser import text_string_to_metric_families

        try:
            return cls(
                tuple(
                    Sample(sample.name, dict(sample.labels), float(sample.value))
                    for family in text_string_to_metric_families(page)
                    for sample in family.samples
                )
            )
        except (IndexError, KeyError, ValueError) as error:
            raise ServerFailed(
                f"the metrics page is not in Prometheus' text format, it begins {page[:40]!r}",
                Facts(hint="Is it the metrics address (usually port 8082)?"),
            ) from error
