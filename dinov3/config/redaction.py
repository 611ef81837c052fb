"""Secrets out of what is printed, written or sent: by the name they stand under, and by what they look like.

Every name of a secret in a text hides what stands after it: ``password: …``, ``AWS_SECRET_ACCESS_KEY=…``, ``--token …``,
``?sig=…``. What issuers mark themselves (``hf_…``, ``AKIA…``, a JSON web token) is hidden wherever it stands.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

REDACTED = "REDACTED"

# Words of a name. Plurals of `token` and `key` count things (student.n_storage_tokens) and are none.
SECRET_WORDS = {
    *("secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "pw", "passcode", "token"),
    *("credential", "credentials", "signature", "sig", "apikey", "authorization", "cookie", "sas", "jwt", "otp"),
    *("auth", "pat", "passwort", "kennwort", "contrasena", "senha"),
}
KEY_OF = {
    *("api", "access", "private", "account", "signing", "shared", "encryption", "master", "auth", "ssh", "storage"),
    *("license", "service", "client", "deploy", "wandb", "openai", "hf", "azure", "aws", "gcp"),
}
RUN_TOGETHER = (
    *("secret", "password", "passwd", "credential", "authtoken", "accesstoken", "accesskey", "privatekey", "privkey"),
)
IN_A_QUERY = {"key", "code", "auth", "sig"}  # of a URL, where a name is as short as it can be
WHOLE_LINE = {"authorization", "cookie"}  # headers, whose value has blanks

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # of snake_case, kebab-case and camelCase
# A name ends where a value may begin; it begins at no letter inside another name, so that long texts are read once.
NAMED = re.compile(
    r"(?:(?P<query>[?&])|(?<![\w-])(?P<dash>--?)?)(?P<name>[A-Za-z][\w-]*)(?P<sep>[\"']?\s*:?=>?\s*|[\"']?\s*:\s*|\s+(?=[^\s-]))"
)
QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"?|'[^']*'?")
LINE = re.compile(r"[^\n]*")
# Up to a blank, a quote, the next item of a URL's query, or the next key=value of a list with : ; or ,
VALUE = re.compile(r"(?:(?![:;,][\w-]+=)[^\s&\"'])+")
BEARER = re.compile(r"(?i)(\bbearer\s+)(?=\S*[\d_~+/=]|\S*\.\w)[\w.~+/=-]{8,}")  # "bearer certificates" are words
LOGIN = re.compile(r"(?<!\w)(\w+://)[^/@\s]+@")
MARKED = re.compile(
    "|".join(
        (
            r"\bhf_(?=\w*[A-Z\d])[A-Za-z\d]{8,}|\bhf_[A-Za-z\d]{20,}",
            r"\bapi_org_[A-Za-z\d]{8,}",
            r"\bgh[pousr]_[A-Za-z\d]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}",
            r"\b(?:sk|pk|rk)[-_](?:[a-z]+[-_])?[A-Za-z\d_-]{16,}",
            r"\bdckr_(?:pat|oat)_[\w-]{16,}|\bdapi[a-f\d]{32}\b|\bglsa_\w{16,}|\bshp(?:at|ss|ca|pa)_\w{16,}|\blin_api_\w{16,}",
            r"\bwandb_v\d+_\w{16,}|\br8_[A-Za-z\d]{20,}|\btskey-[\w-]{16,}|\bSG\.[\w-]{16,}\.[\w-]{16,}",
            r"(?<=hooks\.slack\.com/services/)[\w/]{8,}|(?<=/api/webhooks/)[\w/-]{8,}",
            r"\bxox[a-z]-[\w-]{8,}|\bnvapi-[\w-]{16,}|\bpypi-[\w-]{16,}|\bnpm_[A-Za-z\d]{16,}",
            r"\b(?:AKIA|ASIA)[A-Z\d]{12,}|\bAIza[\w-]{30,}|\bya29\.[\w-]{16,}",
            r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        )
    )
)


def is_secret(name: str, *, in_a_query: bool = False) -> bool:
    """Whether what stands under ``name`` is to be hidden."""
    words = [word.lower() for word in WORD.findall(name)]
    if SECRET_WORDS & set(words) or (in_a_query and IN_A_QUERY & set(words)):
        return True
    if any(secret in word for word in words for secret in RUN_TOGETHER):
        return True
    if words[-1:] == ["pass"] or (len(words) > 1 and words[-1] == "key" and name.isupper()):  # DB_PASS, MISTRAL_KEY
        return True
    return any(a in KEY_OF and b == "key" for a, b in itertools.pairwise(words))


def without_secrets(text: str) -> str:
    """``text`` with REDACTED in the place of every secret it shows; the same when it is asked again."""
    text = BEARER.sub(rf"\1{REDACTED}", LOGIN.sub(rf"\1{REDACTED}@", text))
    text = MARKED.sub(REDACTED, text)
    kept: list[str] = []
    at = 0
    while match := NAMED.search(text, at):
        kept.append(text[at : match.end()])
        at = match.end()
        if _names_a_secret(match) and (end := _value_after(match, text)):
            quote = text[at] if text[at] in "\"'" else ""
            kept.append(f"{quote}{REDACTED}{quote}")
            at = end
    return "".join([*kept, text[at:]])


def _names_a_secret(match: re.Match[str]) -> bool:
    if match["sep"].isspace() and not match["dash"]:
        return False  # a word of a sentence
    if match["name"].lower() == "pass" and "=" not in match["sep"]:
        return False  # "in a second pass: …"
    return is_secret(match["name"], in_a_query=bool(match["query"]) and "=" in match["sep"])


def _value_after(match: re.Match[str], text: str) -> int:
    """Where the value ends that begins at the end of ``match``; 0 when there is none."""
    separator, start = match["sep"], match.end()
    if quoted := QUOTED.match(text, start):
        return quoted.end()
    is_header = WHOLE_LINE & {word.lower() for word in WORD.findall(match["name"])}
    pattern = LINE if is_header or (":" in separator and separator[-1:].isspace()) else VALUE
    found = pattern.match(text, start)
    return found.end() if found and found.end() > start else 0


def redacted(name: str, value: Any) -> Any:
    """``value`` without secrets: hidden whole if its ``name`` says it is one, else where its text shows one."""
    whole = is_secret(name) or WORD.findall(name)[-1:] == ["key"]
    if isinstance(value, dict):
        return {without_secrets(str(k)): redacted(name if whole else str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(name, item) for item in value]
    if value is None or isinstance(value, bool) or value == "":
        return value
    if whole:
        return REDACTED
    return without_secrets(value) if isinstance(value, str) else value
