"""Tables on bad numbers, hangs, machines and metrics (imports no torch)."""

from typing import Literal

from pydantic import Field

from spectral.config_table import Positive, Table

# longest timeout: system timers overflow after a few centuries
YEAR_S = 365 * 86_400.0


class GuardConfig(Table):
    """The `[guard]` table: the response to a step with bad numbers, before it is applied."""

    on_nonfinite: Literal["stop", "skip", "rollback"] = Field(
        "skip",
        description="Response to a NaN or infinite loss or gradient: stop, skip the data of the "
        "step, or also roll back to the newest checkpoint.",
    )
    on_spike: Literal["note", "stop", "skip", "rollback"] = Field(
        "note", description="Response to a sudden rise of the loss: as above, or only record it."
    )
    spike_history: int = Field(
        100,
        ge=10,
        description="Number of recent losses that a spike is measured against; none is detected "
        "before there are that many.",
    )
    spike_sigmas: float = Field(
        10.0,
        gt=0.0,
        description="Robust standard deviations above the median loss beyond which it is a spike.",
    )
    spike_rise: float = Field(
        0.5, ge=0.0, description="Minimum rise above the median, in nats, of a spike."
    )
    limit: int = Field(5, ge=0, description="Bad steps that are skipped before the run stops.")
    limit_steps: Positive = Field(
        1000, description="Steps after which a bad step no longer counts towards limit."
    )


class HealthConfig(Table):
    """The `[health]` table: hangs, stragglers and the check of every machine at the start."""

    hang_timeout_s: float = Field(
        1800.0,
        ge=0.0,
        le=YEAR_S,
        description="Seconds without progress after which all ranks write their stacks and exit; "
        "0 for never.",
    )
    heartbeat_s: float = Field(10.0, gt=0.0, le=YEAR_S, description="Seconds between heartbeats.")
    straggler_ratio: float = Field(
        1.5,
        gt=1.0,
        description="Multiple of the median working time above which a rank is reported as a "
        "straggler.",
    )
    min_free_memory_gib: float = Field(
        1.0, ge=0.0, description="Minimum free memory of every machine, in GiB."
    )
    min_free_disk_gib: float = Field(
        1.0, ge=0.0, description="Minimum free disk space for the run directory, in GiB."
    )
    max_clock_skew_s: float = Field(
        5.0, gt=0.0, description="Maximum difference between the clocks of machines, in seconds."
    )
    on_finding: Literal["warn", "stop"] = Field(
        "warn", description="Response to a finding; a broken device always stops the run."
    )


class MonitorConfig(Table):
    """The `[monitor]` table: which figures a run takes, and who else receives them."""

    every: int = Field(
        50,
        ge=0,
        description="Steps between samples of time by part, memory, norms and spectra; 0 for none.",
    )
    peak_tflops: float = Field(
        0.0,
        ge=0.0,
        lt=1e9,
        description="Peak of a device in 10^12 operations per second, for the utilisation; 0 for "
        "that of the planner's table or, of a processor, a measured one.",
    )
    tensorboard: bool = Field(
        False,
        description="Also write the metrics for TensorBoard, into the folder tensorboard of the "
        "run directory; needs the package tensorboard.",
    )

    prometheus_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the metrics endpoint on rank 0's machine; 0 for none.",
    )
    noise_every: int = Field(
        0,
        ge=0,
        description="Steps between measurements of the gradient noise scale, which tells the batch "
        "that pays; 0 for none. Needs two micro-batches per step, and ranks that hold the whole "
        "model.",
    )
    prometheus_address: str = Field(
        "127.0.0.1",
        description="Address of the metrics endpoint; 0.0.0.0 is reachable from other machines.",
    )
