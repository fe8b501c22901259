"""Secrets are taken out of what is written, and nothing else is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintlab.config import ExperimentConfig, to_json
from tintlab.errors import IntegrityError, TintlabError, without_secrets
from tintlab.redaction import HIDDEN, holds_secret, is_secret_key, redacted, redacted_tree

CANARY = "cAn4ryTw33tXyzzy0"
PEM = "-----BEGIN {0} KEY-----\nMIIEvQIBADANBgkq" + CANARY + "\nabcd==\n-----END {0} KEY-----"

SECRETS = {
    "login": f"http://user:{CANARY}@host:5000/api/2.0",
    "login without user": f"redis://:{CANARY}@host/0",
    "login with an at sign": f"postgresql://me:p@{CANARY}@db/mlflow",
    "login with a slash": f"s3://AKIAABCDEFGHIJKLMNOP:x/{CANARY}+y@bucket/shards",
    "token as login": f"https://{CANARY}@github.com/me/tintlab.git",
    "login in JSON": json.dumps({"uri": f"ftp://me:{CANARY}@host"}),
    "login in JSON in JSON": json.dumps({"s": json.dumps({"u": f"ftp://me:{CANARY}@host"})}),
    "chained": f"simplecache::https://u:{CANARY}@host/x.tar",
    "signed for S3": f"https://b.s3.aws.com/x?X-Amz-Date=1&X-Amz-Signature={CANARY}&w=5",
    "session of S3": f"https://b/x?X-Amz-Security-Token={CANARY}",
    "signed for GCS": f"https://storage/x?GoogleAccessId=a&Signature={CANARY}",
    "signed for Azure": f"https://b.blob.core/x?sv=2024&sig={CANARY}",
    "query": f"https://host/x?token={CANARY}",
    "AWS key id": "AKIA" + CANARY.upper()[:16],
    "AWS variable": f"AWS_SECRET_ACCESS_KEY={CANARY}/ab+c=",
    "GitHub": f"ghp_{CANARY * 2}",
    "GitHub fine-grained": f"github_pat_11AB_{CANARY * 2}",
    "GitLab": f"glpat-{CANARY * 2}",
    "Hugging Face": f"hf_{CANARY * 2}",
    "OpenAI": f"sk-proj-{CANARY * 2}",
    "Slack": f"xoxb-123456789012-{CANARY}",
    "Slack hook": f"https://hooks.slack.com/services/T0/B0/{CANARY}",
    "Google": f"AIza{(CANARY * 3)[:35]}",
    "Stripe": f"sk_live_{CANARY * 2}",
    "JWT": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0{CANARY}.{CANARY}",
    "bearer": f"curl -H 'Authorization: Bearer {CANARY}'",
    "basic": f"{{'Authorization': 'Basic {CANARY}=='}}",
    "PEM": PEM.format("PRIVATE"),
    "PEM of RSA in JSON": json.dumps(PEM.format("RSA PRIVATE")),
    "PEM that is cut": PEM.format("EC PRIVATE")[:70],
    "environment file": f"export MLFLOW_TRACKING_PASSWORD={CANARY}",
    "YAML": f"smtp:\n  password: {CANARY}",
    "code": f'+API_KEY = "{CANARY} and more"',
    "code with a type": f"+    password: str = '{CANARY}'",
    "argument": f"login(user='me', password='{CANARY}')",
    "option": f"tool --api-key {CANARY} --verbose",
    "option with =": f"tool --client-secret={CANARY}",
    "camel case": f'{{"clientSecret": "{CANARY}"}}',
    "connection string": f"AccountName=a;AccountKey={CANARY}==;EndpointSuffix=b",
}

ORDINARY = [
    "/data/photos/token/secret place/x.jpg",
    "s3://bucket/shards/shard-0123456789abcdef.parquet",
    "http://127.0.0.1:5000/api/2.0/mlflow/runs/log-batch?run_id=8c1fc06846b34eadaca7fa7634708095",
    "http://host:8080/~user@example.org/x.jpg?width=64&page=2",
    "ssh://git@github.com/me/tintlab.git",
    "git@github.com:me/tintlab.git",
    "sqlite:////home/me/work space/mlflow.db",
    "b9d8fb6a1c3e5f70921436587a9bcbdcedfe0f1a",  # a git revision
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "run 8c1fc06846b34eadaca7fa7634708095, 400 steps",
    "torch==2.14.1\nray==2.60.0\nmlflow==3.17.2\ntokenizers==0.22.1\nsecretstorage==3.3.3",
    "bins.per_channel=33 num_tokens=128 tokens: 64, max_tokens: 5",
    "token = self.sampler.next(tokens[:, t])",
    "def decode(self, token: int, password: str, secret: SecretStr) -> None:",
    "client.login(token=token, password=password, secret_key=self.secret_key)",
    "val/bits_per_dim 2.0619  lr 1.00e-04",
    "cannot list s3://bucket/x: Unable to locate credentials; check your credentials",
    "the password is wrong; a token may be missing",
    "task-0123456789abcdef0123456789 risk-free-evaluation-of-2024-models desk-1",
    "export HF_TOKEN=$HF_TOKEN",
    'api_key = ""',
    "--name sweep/3 --experiment lr_cycles",
]


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_goes_and_what_is_around_it_stays(kind: str) -> None:
    text = f"before it\n{SECRETS[kind]}\nafter it"
    clean = redacted(text)
    assert CANARY.lower() not in clean.lower()
    assert CANARY[:12] not in clean
    assert HIDDEN in clean
    assert clean.startswith("before it\n")
    assert clean.endswith("\nafter it") or "cut" in kind
    assert redacted(clean) == clean


def test_the_rest_of_an_address_stays_readable() -> None:
    assert redacted("http://me:pass@host:5000/a?b=1") == f"http://{HIDDEN}@host:5000/a?b=1"
    signed = "https://h/x.jpg?X-Amz-Date=2&X-Amz-Signature=0f0f&w=5"
    assert redacted(signed) == f"https://h/x.jpg?X-Amz-Date=2&X-Amz-Signature={HIDDEN}&w=5"


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_our_own_code_and_configuration_are_left_alone() -> None:
    """A diff of this project is logged with every run."""
    root = Path(__file__).parents[1]
    changed = [
        f"{file.relative_to(root)}: {before.strip()} -> {after.strip()}"
        for file in (root / "platform").rglob("*.py")
        if (text := file.read_text()) != (clean := redacted(text))
        for before, after in zip(text.splitlines(), clean.splitlines(), strict=True)
        if before != after
    ]
    assert changed == []
    assert not holds_secret(to_json(ExperimentConfig()))


def test_values_of_the_environment_are_found_without_their_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "plain words 4you")
    monkeypatch.setenv("STORE_URL", "postgresql://me:db%20pass%21x@host/db")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))  # a name, not a secret
    clean = redacted("refused 'plain words 4you', then 'db pass!x'; abc")
    assert clean == f"refused '{HIDDEN}', then '{HIDDEN}'; abc"
    assert redacted(str(tmp_path)) == str(tmp_path)


def test_keys_count_as_whole_words() -> None:
    for key in ("password", "HF_TOKEN", "aws_secret_access_key", "clientSecret", "api-key"):
        assert is_secret_key(key), key
    for key in ("num_tokens", "tokenizer", "secretary", "RAY_AUTH_MODE", "key", "TOKEN_PATH"):
        assert not is_secret_key(key), key


def test_a_tree_keeps_its_form() -> None:
    tree = {
        "kind": "params",
        "values": {"api_key": CANARY, "steps": "400", "token": 5, "password": ""},
        "list": [1, None, True, 0.5, f"http://u:{CANARY}@h"],
    }
    assert redacted_tree(tree) == {
        "kind": "params",
        "values": {"api_key": HIDDEN, "steps": "400", "token": 5, "password": ""},
        "list": [1, None, True, 0.5, f"http://{HIDDEN}@h"],
    }


@given(st.text(max_size=300))
def test_any_text_is_redacted_once_and_for_all(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once


def test_long_texts_are_fast() -> None:
    """A pathological expression would take minutes; this takes milliseconds."""
    for text in (
        "a" * 200_000,
        "http://" * 20_000,
        "token" * 40_000,
        "x=" * 100_000,
        "-" * 200_000,
    ):
        redacted(text)


def test_errors_hold_no_secret_however_they_are_raised() -> None:
    assert CANARY not in str(IntegrityError(f"http://u:{CANARY}@h/x is missing"))
    with pytest.raises(TintlabError, match="ValueError: bad http://") as found, without_secrets():
        raise ValueError(f"bad http://u:{CANARY}@h")
    assert CANARY not in str(found.value)
    code = f"""if True:
        from tintlab.errors import ConfigError, without_secrets
        def ask():
            raise ValueError("bad http://u:" + "{CANARY}" + "@h")
        with without_secrets():
            try:
                ask()
            except ValueError as error:
                raise ConfigError("it does not answer") from error
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError: it does not answer" in done.stderr
    assert f"u:{CANARY}" not in done.stderr


def test_it_is_light_to_import() -> None:
    code = (
        "import sys, tintlab.redaction; print(sorted({'mlflow', 'torch', 'ray'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_causes_that_lead_back_to_each_other_end() -> None:
    first, second = IntegrityError("shard 3 is gone"), KeyError("3")
    first.__cause__, second.__context__ = second, first
    with pytest.raises(IntegrityError, match="shard 3 is gone"), without_secrets():
        raise first
