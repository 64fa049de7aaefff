"""Types of configuration values in batch scripts and manifests, and their allowed characters.

A value has either a type that needs no quoting anywhere (a name, a list of hosts; anything else is
rejected), or it is free text (a path, an environment variable), which every renderer quotes.
"""

import hashlib
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from launch.secret_detection import has_credentials, secret_reason

# DNS label, short enough that Kubernetes can append an index within 63 characters
JOB_NAME = r"^[a-z]([a-z0-9-]{0,50}[a-z0-9])?$"
DNS_SUBDOMAIN = r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$"
LABEL_VALUE = r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"
LABEL_KEY = (
    r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
)
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
# why a secret is refused
SHOWN = "which others could read in batch scripts and manifests"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


class Table(BaseModel):
    """Base of all tables of a run file: frozen; rejects unknown keys, infinities and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _no_control(value: str) -> str:
    control = re.search(r"[\x00-\x1f\x7f]", value)
    if control:
        raise ValueError(f"expected no control characters, found {control[0]!r} in {value!r}")
    if has_credentials(value):
        raise ValueError(f"found a URL with credentials, {SHOWN}; expected one without")
    return value


def _environment(table: dict[str, str]) -> dict[str, str]:
    for name, value in table.items():
        if not re.fullmatch(VARIABLE, name):
            raise ValueError(f"expected names of letters, digits and underscores, found {name!r}")
        reason = secret_reason(name, value)
        if reason:
            raise ValueError(
                f"{name} looks like a secret ({reason}), {SHOWN}: set it in the environment of the "
                "submission (Slurm forwards it), or name a Secret in launch.kubernetes.secret"
            )
        if "\0" in value:
            raise ValueError(f"{name}: expected no NUL characters, found {value!r}")
    return table


# Slurm's own names (partition, account, host list): nothing that a shell or sbatch interprets
SlurmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@+-]*$")]
SlurmList = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,&|()*\[\]-]*$")]
HostPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.,\[\]-]*[A-Za-z0-9\]])?$")]
# one line of free text: quoted by every renderer
Line = Annotated[str, AfterValidator(_no_control)]
Variable = Annotated[str, Field(pattern=VARIABLE)]
Environment = Annotated[dict[str, str], AfterValidator(_environment)]
JobName = Annotated[str, Field(pattern=rf"{JOB_NAME}|^$")]
Subdomain = Annotated[str, Field(pattern=DNS_SUBDOMAIN)]
LabelKey = Annotated[str, Field(pattern=LABEL_KEY)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE)]
Quantity = Annotated[str, Field(pattern=QUANTITY)]


def name_of(text: str) -> str:
    """A job name that Slurm and Kubernetes both accept, made from any text (such as a path)."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-0123456789")
    return name[:52].rstrip("-") or "run"


def digest_of(text: str) -> str:
    """A digest of a text, of eight characters that every name may contain."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
