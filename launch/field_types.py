"""Types of configuration values in batch scripts and manifests, and their allowed characters.

A value has either a type that needs no quoting anywhere (a name, a list of hosts; anything else is
rejected), or it is free text (a path, an environment variable), which every renderer quotes.
"""

import hashlib
import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from launch.secret_detection import has_credentials, secret_reason

# DNS label, short enough that Kubernetes can append an index within 63 characters
JOB_NAME = r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?"
DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DNS_SUBDOMAIN = rf"(?=.{{1,253}}$){DNS_LABEL}(\.{DNS_LABEL})*"
LABEL_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
DOMAIN_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*/{LABEL_NAME}"
LABEL_KEY = rf"{LABEL_NAME}|{DOMAIN_NAME}"
UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
# why a secret is refused
SHOWN = "which others could read in batch scripts and manifests"


class Table(BaseModel):
    """Base of all tables of a run file: frozen; rejects unknown keys, infinities and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def no_control(value: str) -> str:
    """The same text.

    Raises:
        ValueError: It has control characters, such as line breaks.
    """
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


def form(pattern: str, expected: str, *, empty: bool = False) -> AfterValidator:
    """Validator of a text's form; its message describes the form in words.

    Args:
        pattern: Regular expression that the whole text must match.
        expected: Description of such a text.
        empty: Whether the text may also be empty.
    """
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value) and (value or not empty):
            raise ValueError(
                f"expected {expected}{', or nothing' if empty else ''}, found {value!r}"
            )
        return value

    return AfterValidator(check)


def quantity(text: str) -> Decimal:
    """The number that a Kubernetes quantity stands for.

    Raises:
        ValueError: The text is not a quantity.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", text, re.ASCII)
    if not match or match[2] not in UNITS:
        raise ValueError(f"expected a quantity such as 500m, 4 or 16Gi, found {text!r}")
    return Decimal(match[1]) * UNITS[match[2]]


# one line of free text: quoted by every renderer
Line = Annotated[str, AfterValidator(no_control)]
Variable = Annotated[str, form(VARIABLE, "a variable's name of letters, digits and underscores")]
Environment = Annotated[dict[str, str], AfterValidator(_environment)]
JobName = Annotated[
    str,
    form(
        JOB_NAME,
        "at most 52 lower case letters, digits and hyphens, a letter first and no hyphen last",
        empty=True,
    ),
]
Subdomain = Annotated[
    str,
    form(
        DNS_SUBDOMAIN,
        "a Kubernetes name of lower case letters, digits, '-' and '.', such as 'lab-data'",
        empty=True,
    ),
]
LabelKey = Annotated[
    str, form(LABEL_KEY, "a label's key of the form NAME or DOMAIN/NAME, such as 'nvidia.com/gpu'")
]
LabelValue = Annotated[
    str,
    form(
        LABEL_NAME,
        "a label's value of at most 63 letters, digits, '-', '_' and '.', a letter or digit at "
        "both ends",
        empty=True,
    ),
]


def name_of(text: str) -> str:
    """A job name that Slurm and Kubernetes both accept, made from any text (such as a path)."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-0123456789")
    return name[:52].rstrip("-") or "run"


def digest_of(text: str) -> str:
    """A digest of a text, of eight characters that every name may contain."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
