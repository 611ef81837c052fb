"""Text from outside (names of files, members, columns; words of decoders) as it may be sent to a terminal or a page.

One function for every place that prints such a name: an escape character in a file name can recolour, erase or answer
for a terminal, and a right-to-left mark can make ``gpj.exe`` look like ``exe.jpg`` (CVE-2021-42574).
"""

from __future__ import annotations

import re

# Control characters; lone surrogates, which UTF-8 cannot hold; line and paragraph separators; marks that turn or hide
# text. U+200C and U+200D (joiners) stay: Persian, Hindi and many emoji are not written without them.
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def shown(text: str) -> str:
    """``text`` on one line, every character that cannot be seen as its escape: ``\\x1b``, ``\\n``, ``\\u202e``."""
    return HIDDEN.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")
