"""Types of what is read from a file that somebody else may have written (imports no torch).

Every field of such a file has one of them before it becomes a path, a size or a position: no text
is taken for a number, and no name leads out of a folder.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

# numbers are stored and added as 64-bit integers
LARGEST_COUNT = 2**63 - 1
# longest name of most file systems, in bytes
LONGEST_NAME = 255
# also a part of a URL: nothing that a server or a listing interprets
PLAIN_NAME = r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z"


class ForeignTable(BaseModel):
    """Base of tables of such files: frozen; rejects unknown keys and values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def is_plain_name(name: object) -> bool:
    """Whether a value names an entry of a folder itself: no separators, `.`, `..` or controls."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not re.search(r"[/\\\x00-\x1f\x7f]", name)
        and len(name.encode(errors="surrogatepass")) <= LONGEST_NAME
    )


def first_problem(error: ValidationError) -> str:
    """The first wrong field, what was expected, and what was found."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(key) for key in first["loc"])
    expected = first["msg"].removeprefix("Value error, ")
    expected = expected[:1].lower() + expected[1:]
    found = first["input"]
    shown = "" if isinstance(found, dict | list | BaseModel) else f", found {found!r:.100}"
    return f"{where}: {expected}{shown}" if where else f"{expected}{shown}"


def _plain_name(name: str) -> str:
    if not re.search(PLAIN_NAME, name) or len(name) > LONGEST_NAME:
        raise ValueError(f"expected a name of letters, digits, '_', '.' and '-', found {name!r}")
    return name


def _relative_path(path: str) -> str:
    if not all(is_plain_name(part) for part in path.split("/")):
        raise ValueError(f"expected a relative path inside the folder, found {path!r}")
    return path


Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
PlainName = Annotated[str, AfterValidator(_plain_name)]
RelativePath = Annotated[str, AfterValidator(_relative_path)]
