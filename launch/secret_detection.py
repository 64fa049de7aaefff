"""Detection of secrets among environment variables, by name and by value (imports no torch).

Known forms of values (keys of clouds and services, JSON web tokens, random text) are those of
detect-secrets. Its names are those of source code, so names of variables are judged here.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

# whatever stands before and behind, with or without underscores
_ANYWHERE = re.compile(
    "PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|APIKEY|ACCESSKEY|PRIVATEKEY|COOKIE|JWT|BEARER"
)
# whole words, also in the plural
_WORDS = {"AUTH", "AUTHORIZATION", "CRED", "PASS", "PAT", "SIG", "SIGNATURE"}
# ends of words, also in the plural: OPENAIKEY, DBPASS
_ENDINGS = ("KEY", "TOKEN", "PASS", "PWD", "DSN", "CREDS")
_ORDINARY = {
    "BYPASS", "COMPASS", "DONKEY", "HOCKEY", "HOTKEY", "JOCKEY", "MONKEY", "PKEY", "SURPASS",
    "TRESPASS", "TURKEY", "WHISKEY",
}  # fmt: skip
# directories that every shell sets, and the path of a socket
_ORDINARY_NAMES = {"PWD", "OLDPWD", "SSH_AUTH_SOCK"}
# numbers of tokens and keys
_QUANTITY = {"BATCH", "COUNT", "LIMIT", "MAX", "MIN", "N", "NUM", "NUMBER", "PER", "TOTAL"}
# addresses that hold a password as a rule
_CONNECTION = re.compile(
    r"(^|_)(DB|PG|JDBC|ODBC)_?(URL|URI|STRING)S?$|"
    r"(DATABASE|POSTGRES\w*|MYSQL|MARIADB|MONGO\w*|REDIS|AMQP|RABBITMQ|BROKER|SQLALCHEMY\w*|"
    r"WEBHOOK|CONN(ECTION)?)_?(URL|URI|STRING|STR)S?$"
)
# no scheme is longer than 30 characters: a limit keeps the time linear
_USER_INFO = re.compile(r"(https?://[^\s/?#]*|://[^\s/?#@:]*:[^\s/]*)@")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://\S+")
# addresses are no secrets, hexadecimal digests are ordinary, and names are judged here
_UNUSED = ("IPPublicDetector", "HexHighEntropyString", "KeywordDetector")
# longer values are no keys
_LONGEST = 4096
# values that look random because they are lists or paths
_PATH = re.compile(r"^[./~]|[:,;\s]")


def secret_reason(name: str, value: str) -> str:
    """The reason why a variable looks like a secret, without its value; empty if it does not."""
    if is_secret_name(name):
        return "by its name"
    if has_credentials(value):
        return "its value has a URL with credentials"
    return next((f"its value is like a {kind}" for kind in _known_forms(value)), "")


def is_secret_name(name: str) -> bool:
    """Whether variables or parameters of this name hold secrets as a rule."""
    if name in _ORDINARY_NAMES:
        return False
    upper = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()
    words = [word.strip("0123456789") for word in re.split(r"[^A-Z0-9]+", upper)]
    if _ANYWHERE.search("".join(words)) or _CONNECTION.search(upper):
        return True
    counted = not _QUANTITY.isdisjoint(words)
    return any(_is_secret_word(word, counted) for word in words)


def _is_secret_word(word: str, counted: bool) -> bool:
    singular = {word, word.removesuffix("S"), word.removesuffix("ES")} - _ORDINARY
    if word not in singular and word in _ORDINARY:
        return False
    if counted and word.endswith("S") and word != "PASS":
        return False
    return any(form in _WORDS or form.endswith(_ENDINGS) for form in singular)


def has_credentials(text: str) -> bool:
    """Whether a text has a URL with a password or a signature."""
    return bool(_USER_INFO.search(text)) or any(is_secret_name(name) for name in _parameters(text))


def _parameters(text: str) -> Iterator[str]:
    """Names of the query parameters of the URLs in a text."""
    for url in _URL.findall(text):
        try:
            query = urlsplit(url).query
        except ValueError:
            # not a URL after all, such as an unclosed bracket
            continue
        yield from (name for name, value in parse_qsl(query) if value)


def _known_forms(value: str) -> Iterator[str]:
    """Kinds of secret that a value has the form of."""
    if not 8 <= len(value) <= _LONGEST:
        return
    for detector in _detectors():
        random = type(detector).__name__ == "Base64HighEntropyString"
        if random and _PATH.search(value):
            continue
        # random text is found in quotes only
        if any(True for _ in detector.analyze_line(filename="", line=f'"{value}"')):
            yield str(detector.secret_type)


@functools.cache
def _detectors() -> list[Any]:
    # half a second, and only runs with variables need it
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    kinds: Any = get_mapping_from_secret_type_to_class().values()
    return [kind() for kind in kinds if kind.__name__ not in _UNUSED]
