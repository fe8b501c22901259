"""Secrets taken out of everything that is written down: by their keys, their shapes, their values.

    by key      password=..., "api_key": "...", --token ..., and mappings with such keys
    by shape    logins in URIs, signed queries, tokens of known services, JWTs,
                Authorization headers, private keys in PEM
    by value    what this process's environment holds under such a key, wherever it turns up

Only what is written is redacted; values stay whole in memory, where they are needed. A text without
secrets comes back unchanged, and so does one that is redacted already.

Sources: the prefixes that GitHub, GitLab, Hugging Face, OpenAI, Slack, Google, AWS, Stripe and
others publish for secret scanning; RFC 3986 sec. 3.2.1 (userinfo); RFC 7519 (JWT); RFC 7468 (PEM).
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar
from urllib.parse import unquote

HIDDEN = "[redacted]"

MIN_VALUE_LENGTH = 8
"""Shorter values of the environment are no secrets worth the words they would hide."""

_WORD = (
    r"pass(?:word|wd|phrase)|pwd|secrets?|token|credentials?|authorization|"
    r"(?:api|access|secret|private|account|signing|encryption)[_-]?key(?:[_-]?id)?"
)
# In what follows a repetition is bounded where a search could begin again inside it: any text takes
# time in proportion to its length.
_KEY = re.compile(rf"[\w.-]*(?:{_WORD})", re.IGNORECASE)
_QUERY_KEY = re.compile(rf"[\w.-]*(?:{_WORD}|signature|sig|key|auth)", re.IGNORECASE)

_ASSIGNED = re.compile(
    rf"(?P<word>{_WORD})"
    r"(?P<sign>\\?[\"']?[ \t]*(?:(?::[ \t]*[\w.]{1,40}[ \t]*)?=|:)[ \t]*|[ \t]+)"
    r"(?P<value>\\\"[^\"\n]*\\\"|\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&`\"'()\[\]{}<>\\]+)(?P<after>[(\[]?)",
    re.IGNORECASE,
)
_OPTION = re.compile(r"--[\w-]*\Z")
_HARMLESS = re.compile(
    r"[-+]?[\d_.]+(?:e[-+]?\d+)?|true|false|none|null|str|bytes|int|float|bool|any|optional|"
    r"[=:|/\\.…*x-]+",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[A-Za-z_.]+")

_PEM = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----.*?"
    r"(?:-----END (?P=kind)-----|\Z)",
    re.DOTALL,
)
# A password may hold "/" although it should not (AWS keys do); a host's port is none.
_USERINFO = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,30}:(?:\\?/){2})(?:"
    r"[^\s/:@\"'<>\\]{0,200}:(?!\d{1,5}[/?#])[^\s@\"'<>\\]{1,500}"
    r"(?:@[^\s/@\"'<>\\]{1,500}){0,3}@(?=[\w\[])"
    r"|(?<=https://)[^\s/:@\"'<>\\]{1,500}@|(?<=http://)[^\s/:@\"'<>\\]{1,500}@)",
    re.IGNORECASE,
)
_QUERY = re.compile(r"(?P<start>[?&;](?P<key>[\w.-]+)=)(?P<value>[^&\s\"'<>#\\]+)")
_HEADER = re.compile(
    r"(?P<start>\bAuthorization\\?[\"']?\s*[:=]\s*\\?[\"']?(?:\w+\s+)?|\bBearer\s+)"
    r"(?P<value>[\w.~+/=-]*[\d.~+/=-][\w.~+/=-]*)",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|gl(?:pat|oas|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-[\w-]{16,}"
    r"|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}"
    r"|sk-(?=[\w-]{0,60}\d)[\w-]{20,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"
    r"|npm_[A-Za-z0-9]{36}|pypi-AgE[\w-]{16,}|dckr_pat_[\w-]{20,}"
    r"|dapi[0-9a-f]{32}|dop_v1_[0-9a-f]{64}|SG\.[\w-]{16,80}\.[\w-]{16,80}"
    r"|eyJ[\w-]{8,1000}\.eyJ[\w-]{8,8000}\.[\w-]*"
    r")"
)
_SLACK_HOOK = re.compile(r"(hooks\.slack\.com/(?:services|workflows)/)[\w/-]+")

Tree = TypeVar("Tree")


def redacted(text: str) -> str:
    """The text without its secrets."""
    for value in _environment_secrets(tuple(os.environ.items())):
        if value in text:
            text = text.replace(value, HIDDEN)
    text = _PEM.sub(HIDDEN, text)
    text = _TOKEN.sub(HIDDEN, text)
    text = _SLACK_HOOK.sub(rf"\1{HIDDEN}", text)
    if "://" in text or ":\\/\\/" in text:
        text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    if "=" in text:
        text = _QUERY.sub(_without_query, text)
    text = _HEADER.sub(rf"\g<start>{HIDDEN}", text)
    return _ASSIGNED.sub(_without_assigned, text)


def redacted_tree(tree: Tree) -> Tree:
    """The same mappings and sequences without secrets in their strings, or under their keys."""
    found: object = tree
    if isinstance(tree, str):
        found = redacted(tree)
    elif isinstance(tree, Mapping):
        found = {key: _under(str(key), value) for key, value in tree.items()}
    elif isinstance(tree, list | tuple):
        found = [redacted_tree(item) for item in tree]
    return found  # type: ignore[return-value]


def holds_secret(text: str) -> bool:
    """Whether redaction would change the text."""
    return redacted(text) != text


def is_secret_key(key: str) -> bool:
    """Whether what has this name is a secret: api_key, HF_TOKEN, clientSecret; not num_tokens."""
    return _KEY.fullmatch(key) is not None


def _under(key: str, value: object) -> object:
    if is_secret_key(key) and isinstance(value, str) and value and not _HARMLESS.fullmatch(value):
        return HIDDEN
    return redacted_tree(value)


def _without_query(match: re.Match[str]) -> str:
    return f"{match['start']}{HIDDEN}" if _QUERY_KEY.fullmatch(match["key"]) else match[0]


def _without_assigned(match: re.Match[str]) -> str:
    """Keeps what a text about tokens and passwords, or code that handles them, has after the word.

    Nothing is given away by `token = self.next(x)`, `password=self.password` or `the token is`.
    """
    word, sign, value = match["word"], match["sign"], match["value"]
    bare = value.strip("\\\"'")
    quoted = bare != value
    before = match.string[max(0, match.start() - 40) : match.start()]
    if sign.isspace() and not _OPTION.search(before):  # prose, not an option and its value
        return match[0]
    if not bare or bare == HIDDEN or _HARMLESS.fullmatch(bare) or bare.startswith("--"):
        return match[0]
    if not quoted and (match["after"] in ("(", "[") or value.startswith(("$", "%"))):
        return match[0]  # a call, an element, or a variable that stands for the value
    if not quoted and _LETTERS.fullmatch(bare) and is_secret_key(bare):
        return match[0]  # a variable of that name
    if word.lower() in ("token", "credential", "credentials") and _LETTERS.fullmatch(bare):
        return match[0]  # these words mean other things as well, and no token is one plain word
    if not quoted and sign.strip() == ":" and _LETTERS.fullmatch(bare) and sign != ":":
        return match[0]  # prose, or the type in a declaration
    hidden = value.replace(bare, HIDDEN) if quoted else HIDDEN
    return f"{word}{sign}{hidden}{match['after']}"


@lru_cache(maxsize=4)
def _environment_secrets(environment: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Values that must not be written whatever is around them, longest first."""
    found = set()
    for key, value in environment:
        if is_secret_key(key) and not os.path.exists(value):  # some name a file that holds it
            found |= {value, unquote(value)}
        for login in re.findall(r"://[^\s/:@]*:([^\s@/]+)@", value):
            found |= {login, unquote(login)}
    return tuple(sorted((v for v in found if len(v) >= MIN_VALUE_LENGTH), key=len, reverse=True))
