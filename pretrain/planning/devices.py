"""The GPUs and links that a plan is made for (imports no torch)."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from data_pipeline.errors import DataError
from data_pipeline.input_files import read_regular
from pretrain.errors import RunError
from pretrain.run_file import MAX_BYTES, describe, parse_toml
from spectral.config_table import Table

KNOWN = Path(__file__).with_name("devices.toml")
# bounds within which no figure of a plan overflows
Above0 = Annotated[float, Field(gt=0.0, lt=1e12)]
Share = Annotated[float, Field(ge=1e-3, le=1.0)]


class Link(Table):
    """A connection between ranks."""

    gb_s: Above0 = Field(description="Bandwidth of a rank in one direction, 10^9 bytes per second.")
    latency_us: float = Field(0.0, ge=0.0, description="Time of a message without content.")
    efficiency: Share = Field(1.0, description="Share of the bandwidth that collectives reach.")
    source: str = Field("", description="Origin of the figures.")

    def seconds(self, num_bytes: float, messages: float) -> float:
        """Time to move bytes in consecutive messages."""
        bandwidth = self.gb_s * 1e9 * self.efficiency
        return num_bytes / bandwidth + messages * self.latency_us * 1e-6


class Device(Table):
    """A GPU, or a processor of this machine that was measured."""

    name: str = Field(description="Full name.")
    memory_gib: Above0 = Field(description="Memory.")
    reserved_gib: float = Field(
        0.0, ge=0.0, lt=1e12, description="Memory for context, libraries and fragmentation."
    )
    memory_gb_s: Above0 = Field(description="Bandwidth of the memory, 10^9 bytes per second.")
    tflops: dict[str, Above0] = Field(
        min_length=1, description="Peak of matrix products by dtype, 10^12 operations per second."
    )
    vector_tflops: Above0 = Field(description="Peak of other arithmetic, such as transforms.")
    efficiency: Share = Field(1.0, description="Share of the peak that matrix products reach.")
    memory_efficiency: Share = Field(1.0, description="Share of the bandwidth that streams reach.")
    launch_us: float = Field(0.0, ge=0.0, description="Time between eager operations.")
    overhead_us: float = Field(
        0.0,
        ge=0.0,
        description="Time of an operation beside its arithmetic, which hides none of it.",
    )
    link: str = Field("", description="Link between the devices of a machine.")
    per_node: int = Field(8, ge=1, description="Usual number in a machine.")
    source: str = Field("", description="Origin of the figures.")

    @property
    def capacity(self) -> int:
        """Bytes that a run can use."""
        return round((self.memory_gib - self.reserved_gib) * 2**30)


class Devices(Table):
    """A file of devices."""

    gpus: dict[str, Device] = Field({}, description="GPUs by name.")
    links: dict[str, Link] = Field({}, description="Links by name.")

    def gpu(self, name: str) -> Device:
        """A GPU by its name.

        Raises:
            RunError: It is unknown, or its link is.
        """
        device = self.gpus.get(name.lower())
        if device is None:
            raise RunError(
                f"--gpu is {name!r}; expected one of {', '.join(self.gpus)}, or another one in a "
                "file for --devices"
            )
        if device.link not in self.links:
            raise RunError(
                f"gpus.{name}.link is {device.link!r}; expected one of {', '.join(self.links)}, "
                "or another one in the file for --devices"
            )
        return device

    def network(self, name: str) -> Link:
        """A link by its name, or by its Gbit/s for each GPU.

        Raises:
            RunError: It is unknown.
        """
        if name in self.links:
            return self.links[name]
        try:
            gbit = float(name)
        except ValueError:
            gbit = 0.0
        if not 0.0 < gbit < 1e6:
            raise RunError(
                f"--network is {name!r}; expected the Gbit/s of a GPU, such as 400, or one of "
                f"{', '.join(self.links)}"
            )
        return Link(gb_s=gbit / 8, latency_us=8, efficiency=0.8)


def load_devices(path: Path | None = None) -> Devices:
    """The known devices and those of a file, which may replace some.

    Raises:
        RunError: The file is missing, not TOML, or has wrong keys.
    """
    known = Devices.model_validate(tomllib.loads(KNOWN.read_text(encoding="utf-8")))
    if path is None:
        return known
    try:
        more = Devices.model_validate(parse_toml(read_regular(path, MAX_BYTES).decode()))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file of devices") from None
    except DataError as error:
        raise RunError(str(error)) from error
    except ValidationError as error:
        raise RunError(f"{path}: {describe(error, Devices)}") from None
    except ValueError as error:
        raise RunError(f"{path}: not a TOML file: {error}") from error
    return Devices(gpus={**known.gpus, **more.gpus}, links={**known.links, **more.links})
