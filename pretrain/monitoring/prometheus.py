"""Figures of a run for Prometheus, served over HTTP by rank 0 when `[monitor]` asks for it."""

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from pretrain.config import MonitorConfig
from pretrain.errors import RunError


class PrometheusEndpoint:
    """Serves the newest value of each figure, as `resonance_NAME`, until closed.

    Attributes:
        port: Where it listens.

    Raises:
        RunError: The address cannot be listened on.
    """

    def __init__(self, config: MonitorConfig):
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._updated = self._gauge("updated_timestamp_seconds", "When a figure changed last.")
        self._rank_seconds = Gauge(
            "resonance_rank_step_seconds",
            "Time that a rank worked on the last step, waits for other ranks left out.",
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

    def update(self, record: Mapping[str, float]) -> None:
        """Take in the figures of a step or a validation."""
        for name, value in record.items():
            gauge = self._gauges.get(name) or self._gauge(name, f"{name} in metrics.jsonl.")
            gauge.set(value)
        self._updated.set(time.time())

    def update_ranks(self, seconds: Sequence[float]) -> None:
        """Take in how long each rank worked on a step."""
        for rank, value in enumerate(seconds):
            self._rank_seconds.labels(str(rank)).set(value)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _gauge(self, name: str, text: str) -> Gauge:
        self._gauges[name] = Gauge(f"resonance_{name}", text, registry=self._registry)
        return self._gauges[name]
