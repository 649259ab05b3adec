"""Text that came from elsewhere, as it is shown to people, given to models, and written for machines. Pure.

A document, a file's name or a server's message may hold characters that a terminal obeys, that change the order in
which text is shown, or that are not seen at all and yet are read by a model (Unicode TR36 and UTS #39; PEP 672).
:func:`cleaned` is what people and models get, :func:`escaped` what machines get. Both take time linear in the text.
"""

from __future__ import annotations

import re
from functools import cache

_REPLACED = "\N{REPLACEMENT CHARACTER}"
# Letters and marks of scripts in which ZWJ and ZWNJ decide how letters are joined (Unicode 15, chapters 9, 12 to 14).
_JOINING = (
    "\u0600-\u060b\u060d-\u061a\u0620-\u08ff\u0900-\u0dff\u0f00-\u0fff\u1000-\u109f\u1780-\u17b3\u17b6-\u17ff\u1800-\u180a\u1810-\u18af\u1a20-\u1aaf"
    "\u1b00-\u1bff\ua840-\ua8ff\ua980-\ua9df\ua9e0-\uaa7f\uabc0-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00010a5f\U00010d00-\U00010d3f\U00011000-\U000118ff\U0001e900-\U0001e95f"
)
_PICTURE = "\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff\xa9\xae"
_IDEOGRAPH = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_JAMO = "\u1100-\u115e\u1161-\u11ff\ua960-\ua97f\ud7b0-\ud7ff"
# What is not seen by itself: format characters, fillers, selectors of variants, and what Unicode keeps for more of them.
_UNSEEN = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Patterns with many characters take a while to compile: each is made when it is needed first.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SUSPICIOUS = f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_UNSEEN}]"
_FLAG = "\U0001f3f4"
_FLAG_TAGS = "(?:gbeng|gbsct|gbwls)".translate({code: 0xE0000 + code for code in range(0x61, 0x7B)})
# What stays where it belongs.
_KEPT = "|".join(
    (
        # Between pictures; a picture may have a selector or a skin tone of its own.
        f"(?:(?<=[{_PICTURE}])|(?<=[{_PICTURE}]\ufe0f))\u200d(?=[{_PICTURE}])",
        # One behind a letter of a script that needs it; ZWNJ between two such letters.
        f"(?<=[{_JOINING}])(?:\u200d(?![{_UNSEEN}])|\u200c(?=[{_JOINING}]))",
        f"(?<=[{_PICTURE}])[\ufe0e\ufe0f]|(?<=[0-9#*])\ufe0f(?=\u20e3)",
        f"(?<=[{_IDEOGRAPH}])[\ufe00-\ufe02\U000e0100-\U000e01ef]",
        "(?<=[\u2200-\u22ff\u2a00-\u2aff\u1000-\u109f])\ufe00|(?<=[\u1800-\u180a\u1810-\u18aa])[\u180b-\u180f]",
        f"[\u115f\u1160](?=[{_JAMO}])|(?<=[{_JAMO}])[\u115f\u1160]",
    )
)
# What does not, in the order in which it is tried; long runs are found at once.
_CHANGED = (
    # The flags of England, Scotland and Wales are the only ones that are spelled in tags.
    f"(?={_SUSPICIOUS})(?:(?P<flag>(?<={_FLAG}){_FLAG_TAGS}\U000e007f)|(?!{_KEPT})(?:"
    "(?P<line>\r\n|[\u2028\u2029])"
    # What would change the order of what follows is shown, so that it is noticed.
    "|(?P<order>[\u202a-\u202e\u2066-\u2069]+)"
    # A hidden text of tags or of selectors leaves one sign that it was there.
    "|(?P<hidden>[\U000e0000-\U000e0fff][\U000e0000-\U000e0fff\ufe00-\ufe0f]*|[\ufe00-\ufe0f]{2,})"
    "|(?P<control>[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+|\r)"
    "|(?P<unseen>[\xad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a]+|[\u115f\u1160\ufe00-\ufe0f])))"
)
# For machines: whatever is a control or format character, or is not seen, in any place.
_ESCAPED = (
    f"[\x00-\x1f\x7f-\x9f\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u2028\u2029\ud800-\udfff"
    f"\U000110bd\U000110cd\U00013430-\U0001345f{_UNSEEN}]"
)


def cleaned(text: str) -> str:
    """``text`` for people and for models, in which nothing is hidden and nothing is obeyed.

    * Controls but tab and newline (C0, DEL, C1) become U+FFFD; CR LF, U+2028 and U+2029 a newline.
    * What changes the order of text (embeddings, overrides, isolates) is shown as ``<U+202E>``.
    * Runs of tag characters, and of variation selectors that nothing has, become one U+FFFD.
    * Zero-width characters, fillers and marks of direction are left out.

    What writing needs stays: one joiner where a script or an emoji sequence has it, the selector of a picture, an
    ideograph or a mathematical sign, and the three flags that are spelled in tags. Applied twice it changes nothing.
    """
    if (_CONTROL if text.isascii() else _compiled(_SUSPICIOUS)).search(text) is None:
        return text
    return _compiled(_CHANGED).sub(_shown, text)


def escaped(json: str) -> str:
    r"""JSON with ``\u`` escapes for what a terminal could obey or would not show (RFC 8259 §7): it says the same.

    ``json`` has line breaks and tabs between its tokens at most, as Python's encoder writes it.
    """
    if json.isascii() and "\x7f" not in json:
        return json
    return _compiled(_ESCAPED).sub(_escape, json)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _shown(found: re.Match[str]) -> str:
    match found.lastgroup:
        case "flag":
            return found[0]
        case "line":
            return "\n"
        case "order":
            return "".join([f"<U+{ord(letter):04X}>" for letter in found[0]])
        case "hidden":
            return _REPLACED
        case "control":
            return _REPLACED * len(found[0])
        case _:
            return ""


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if found[0] in "\n\t":
        return found[0]
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
