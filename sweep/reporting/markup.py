"""HTML and SVG from Python, with every text escaped: only what is `Markup` already is taken as it is."""

import html
import re

# What XML has no room for, and what turns the direction of the text around it; a lone surrogate cannot be encoded.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_LONGEST = 160  # characters of one name


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def clean(text: object, longest: int = _LONGEST) -> str:
    """A text that every reader can show: unfit characters replaced, and cut where it is very long."""
    shown = _UNFIT.sub("\ufffd", str(text))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def escape(text: object) -> Markup:
    """A text as markup that shows it."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(_UNFIT.sub("\ufffd", str(text)), quote=True))


def join(*children: object) -> Markup:
    """Texts and markup one after the other; None is nothing."""
    return Markup("".join(escape(child) for child in children if child is not None))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """One element. An attribute's `_` is written `-`, a trailing one is dropped; None leaves it out.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    words = [tag]
    for name, value in attributes.items():
        if value is not None:
            words.append(f'{name.rstrip("_").replace("_", "-")}="{escape(value)}"')
    inside = join(*children)
    opened = " ".join(words)
    if not children and tag in ("meta", "path", "rect", "line", "circle", "br", "polyline"):
        return Markup(f"<{opened}/>")
    return Markup(f"<{opened}>{inside}</{tag}>")
