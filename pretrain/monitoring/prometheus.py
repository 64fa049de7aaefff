"""Metrics of a run for Prometheus, served over HTTP by rank 0 if `[monitor]` enables it."""

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from pretrain.errors import RunError
from pretrain.health_config import MonitorConfig


class PrometheusEndpoint:
    """An HTTP server of the newest value of each figure, as `resonance_NAME`.

    A figure of a part of the model or of a step, `NAME/PART`, is `resonance_NAME{part="PART"}`.

    Attributes:
        port: Port that it listens on.

    Raises:
        RunError: The address cannot be used.
    """

    def __init__(self, config: MonitorConfig):
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._updated = self._gauge("updated_timestamp_seconds", "Time of the last update.")
        self._rank_seconds = Gauge(
            "resonance_rank_step_seconds",
            "Working time of a rank in the last step, without waits for other ranks.",
            ["rank"],
            registry=self._registry,
        )
        try:
            self._server, self._thread = start_http_server(
                config.prometheus_port, config.prometheus_address, self._registry
            )
        except OSError as error:
            raise RunError(
                f"monitor.prometheus_address {config.prometheus_address}, port "
                f"{config.prometheus_port}: cannot be listened on: {error}"
            ) from error
        self.port = self._server.server_port

    def log(self, record: Mapping[str, float], rank_seconds: Sequence[float]) -> None:
        """Replace the figures by those of a step or a validation.

        Args:
            record: Figures by name.
            rank_seconds: Working time of each rank.
        """
        for key, value in record.items():
            name, _, part = key.partition("/")
            text = f"{name} in metrics.jsonl."
            gauge = self._gauges.get(name) or self._gauge(name, text, ["part"] if part else [])
            (gauge.labels(part) if part else gauge).set(value)
        for rank, seconds in enumerate(rank_seconds):
            self._rank_seconds.labels(str(rank)).set(seconds)
        self._updated.set(time.time())

    def log_spectrum(self, _step: int, _spectrum: object) -> None:
        """Nothing: the record of the step has the means of each layer."""

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        self._gauges[name] = Gauge(f"resonance_{name}", text, labels, registry=self._registry)
        return self._gauges[name]
