"""URLs without credentials, for everything that is printed or stored (imports no torch)."""

import re

# replaces the user info and every query value; a URL with it cannot be opened
REDACTED = "REDACTED"
# limits keep the time linear
# up to the last @ of the host's part; a password with an unescaped / is found by its colon
_USER_INFO = re.compile(r"(?<=://)(?:[^\s/?#]*|[^\s/?#@:]*:(?!\d*[/\s])[^\s?#@]{0,256})@")
_QUERY = re.compile(r"""(?<=://)([^\s?'"<>]{0,2048}\?)([\w.~%$\[\]-]{1,128}=[^\s'"<>]*)""")
_VALUE = re.compile(r"=[^&;#]*")
# nothing else of a token in a header, as a pipe: command may have it
_HEADER = re.compile(r"(?i)\b(authorization\s*[:=]\s*\w+\s+)[^\s'\"]+")


def redact(text: str) -> str:
    """A text whose URLs have neither user info nor query values: signatures are among them."""
    if "://" in text:
        text = _USER_INFO.sub(f"{REDACTED}@", text)
        text = _QUERY.sub(_without_values, text)
    return _HEADER.sub(rf"\g<1>{REDACTED}", text)


def _without_values(match: re.Match[str]) -> str:
    # what follows the URL in a sentence stays
    query = match[2].rstrip(":,.;)")
    return match[1] + _VALUE.sub(f"={REDACTED}", query) + match[2][len(query) :]


def is_redacted(url: str) -> bool:
    """Whether a URL has lost its credentials."""
    return f"://{REDACTED}@" in url or f"={REDACTED}" in url
