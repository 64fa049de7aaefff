"""Secrets among a job's variables are found by name and by value, and ordinary ones are not."""

import secrets
import time

import pytest
from pydantic import ValidationError

from launch.config import LaunchConfig
from launch.secret_detection import has_credentials, is_secret_name, secret_reason

NAMES = [
    "PGPASSWORD", "DB_PASS", "DBPASS", "GITHUB_PAT", "DATABASE_URL", "SENTRY_DSN", "SENTRYDSN",
    "OPENAIKEY", "OPENAI_API_KEY", "JWT", "COOKIE", "SESSION_COOKIE", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGINGFACETOKEN", "WANDB_API_KEY", "MYSQL_PWD",
    "SSH_PASSPHRASE", "GPG_KEY", "TOKEN", "PASSWORD", "PASSWD", "MY_SECRET", "CLIENTSECRET",
    "GOOGLE_APPLICATION_CREDENTIALS", "API_KEY2", "TOKEN_1", "REDIS_URL", "MONGODB_URI",
    "SLACK_WEBHOOK_URL", "AZURE_STORAGE_CONNECTION_STRING", "DB_URL", "SQLALCHEMY_DATABASE_URI",
    "REDIS_AUTH", "HTTP_AUTHORIZATION", "CREDS", "openaiKey", "apiToken", "dbPassword",
]  # fmt: skip
PLURALS = [
    "PASSWORDS", "DB_PASSES", "GITHUB_PATS", "DATABASE_URLS", "SENTRY_DSNS", "OPENAIKEYS",
    "API_KEYS", "JWTS", "COOKIES", "TOKENS", "SECRETS", "CREDENTIALS", "PASSPHRASES",
    "PRIVATE_KEYS",
]  # fmt: skip
ORDINARY = {
    "OMP_NUM_THREADS": "8",
    "NCCL_DEBUG": "INFO",
    "NCCL_IB_PKEY": "0x8001",
    "NCCL_SOCKET_IFNAME": "^lo,docker0",
    "TOKENIZERS_PARALLELISM": "false",
    "MONKEY": "yes",
    "MONKEYS": "3",
    "KEYBOARD_LAYOUT": "us",
    "MAX_TOKENS": "4096",
    "NUM_KEYS": "12",
    "PWD": "/home/user",
    "OLDPWD": "/",
    "PATH": "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": "/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
    "NCCL_TOPO_FILE": "/opt/microsoft/ndv5-topo-a8f2Zq91Lm03.xml",
    "COMPASS": "north",
    "BYPASS_CACHE": "1",
    "SSH_AUTH_SOCK": "/run/user/1000/keyring/ssh",
    "PYTHONPATH": "src",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    "HF_ENDPOINT": "https://huggingface.co",
    "S3_ENDPOINT_URL": "http://minio.storage.svc:9000/a@b?region=eu",
    "GIT_REMOTE": "ssh://git@github.com/lab/resonance.git",
    "COMMIT": "3a7bd3e2360a3d29eea436fcfb7e44c735d117c4",
    "GREETING": 'it\'s $HOME, `id`; "x"',
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "COMPAT": "1",
    "PATTERN": "a*b",
    "WANDB_MODE": "offline",
}
VALUES = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "a1B2" * 9,
    "glpat-x1Y2x1Y2x1Y2x1Y2x1Y2",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "https://user:password@host/x",
    "postgres://me:pw@db/x",
    "https://0123456789@sentry.example.org/1",
    "https://host/x?X-Amz-Signature=0123&X-Amz-Expires=60",
    "https://host/x?sv=2024&sig=abc%3D",
    "https://host/x?token=abc",
    "see https://host/x?a=1&access_token=abc",
]


@pytest.mark.parametrize("name", NAMES + PLURALS)
def test_names_of_secrets_are_refused_without_their_value(name: str) -> None:
    assert is_secret_name(name)
    value = secrets.token_urlsafe(8)
    with pytest.raises(ValidationError, match=rf"{name} looks like a secret \(by its name\)") as it:
        LaunchConfig(environment={name: value})
    message = it.value.errors(include_url=False, include_input=False)[0]["msg"]
    assert value not in message
    assert "launch.kubernetes.secret" in message


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_variables_are_kept(name: str) -> None:
    assert secret_reason(name, ORDINARY[name]) == ""
    assert LaunchConfig(environment={name: ORDINARY[name]}).environment == {name: ORDINARY[name]}


@pytest.mark.parametrize("value", VALUES)
def test_values_of_secrets_are_refused(value: str) -> None:
    assert secret_reason("GREETING", value).startswith("its value")
    with pytest.raises(ValidationError, match="GREETING looks like a secret"):
        LaunchConfig(environment={"GREETING": value})


def test_free_text_has_no_credentials_either() -> None:
    assert has_credentials("docker://user:password@registry/image")
    assert not has_credentials("docker://registry/image@sha256:0123")
    with pytest.raises(ValidationError, match="found a URL with credentials"):
        LaunchConfig.model_validate({"slurm": {"image": "docker://user:password@registry/image"}})


def test_long_values_take_no_time() -> None:
    started = time.monotonic()
    for value in ("a" * 100_000, "https://" + "a:" * 50_000, "x?" * 50_000, "://" * 30_000):
        secret_reason("GREETING", value)
    assert time.monotonic() - started < 10
