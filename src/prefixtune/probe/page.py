"""The HTML report of a run: one file that needs nothing outside itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from prefixtune.probe.samples import Judged, Sides, Text
from prefixtune.tasks.tagging import OUTSIDE

_LONG = 400
"""Characters of a sample text that are shown."""

_TALL = 12
"""From this many rows on, facts stand in two columns."""

_STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; color: #1d2733;
       background: #fff; margin: 0 auto; max-width: 960px; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 40px 0 8px; padding-bottom: 4px; border-bottom: 1px solid #dde3ea; }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 6px 0 10px; } .sub, .note { color: #5b6775; } .note { font-size: 13px; }
img { max-width: 100%; display: block; margin: 8px 0; }
table { border-collapse: collapse; margin: 8px 0 12px; font-size: 14px; }
.wide { overflow-x: auto; } .wide table { width: 100%; }
th { text-align: left; font-weight: 600; color: #5b6775; border-bottom: 1px solid #c6cfd9; padding: 4px 14px 4px 0; }
td { vertical-align: top; border-bottom: 1px solid #eef1f5; padding: 4px 14px 4px 0; overflow-wrap: anywhere; }
.wide td:not([class]) { min-width: 7em; }
.wide td:not([class]):first-child { min-width: 12em; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { width: 130px; } .bar i { display: block; height: 11px; margin-top: 6px; background: #2171b5; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 0 32px; align-items: start; }
.two table { font-size: 13px; margin: 0; } .two td { padding: 2px 10px 2px 0; }
.two td + td { white-space: pre-wrap; }
.key { color: #5b6775; white-space: nowrap; width: 1%; }
pre { background: #f4f6f9; padding: 12px 14px; font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere; }
.words { line-height: 1.9; display: flex; }
.words b { font-weight: 600; background: #dcebf8; padding: 1px 4px; white-space: nowrap; }
.words b small { color: #2171b5; font-weight: 400; margin-left: 4px; }
.words b.off { background: #fde0d2; } .words b.off small { color: #b03a00; }
.who { flex: 0 0 58px; color: #5b6775; font-size: 13px; line-height: 2.2; }
.sample { margin: 10px 0 16px; }
"""


def page(title: str, subtitle: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole document of `(heading, HTML)` sections; those without content are left out."""
    body = "".join(f"<section><h2>{escape(head)}</h2>{content}</section>\n" for head, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="sub">{escape(subtitle)}</p>\n{body}</body>\n</html>\n'
    )


def note(text: str) -> str:
    """A remark in small print."""
    return f'<p class="note">{escape(text)}</p>'


def image(png: bytes, alt: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


def code(text: str) -> str:
    """Text to copy."""
    return f"<pre>{escape(text)}</pre>"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], bar: str | None = None, whole: float = 0.0) -> str:
    """A table; numbers stand to the right. The column `bar` is also drawn, as a part of a bar that is `whole` long."""
    rows = [list(row) for row in rows]
    place = columns.index(bar) if bar is not None else None
    numeric = [
        bool(rows) and all(isinstance(row[at], int | float | None) for row in rows) for at in range(len(columns))
    ]
    head = "".join(f"<th{_class(number)}>{escape(name)}</th>" for name, number in zip(columns, numeric, strict=True))
    lines = []
    for row in rows:
        cells = "".join(f"<td{_class(n)}>{escape(_shown(v))}</td>" for v, n in zip(row, numeric, strict=True))
        if place is not None:
            width = 100 * abs(row[place]) / whole if whole else 0
            cells += f'<td class="bar"><i style="width:{width:.1f}%"></i></td>'
        lines.append(f"<tr>{cells}</tr>")
    head += "<th></th>" if place is not None else ""
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def facts(values: Mapping[str, Any]) -> str:
    """Names and values, one a row; nested mappings as `outer.inner`."""
    rows = [
        f'<tr><td class="key">{escape(name)}</td><td>{escape(_exact(value))}</td></tr>' for name, value in _flat(values)
    ]
    half = len(rows) if len(rows) < _TALL else (len(rows) + 1) // 2
    tables = [f"<table>{''.join(part)}</table>" for part in (rows[:half], rows[half:]) if part]
    return f'<div class="two">{"".join(tables)}</div>' if tables else ""


def judged(sides: Sequence[Sides]) -> str:
    """Right and wrong answers of a head."""
    total = sum(side.count for side in sides)
    parts = []
    for side in sides:
        more = f", {len(side.shown)} shown" if len(side.shown) < side.count else ""
        parts.append(f"<h3>{side.title}: {side.count} of {total} examples{more}</h3>")
        parts += [_tagged(one) for one in side.shown if isinstance(one.gold, list)]
        classes = [one for one in side.shown if not isinstance(one.gold, list)]
        if classes:
            rows = [(one.text(_LONG), one.gold, one.answer) for one in classes]
            parts.append(table(("text", "gold", "prefix"), rows))
    return "".join(parts)


def texts(samples: Sequence[Text]) -> str:
    """Texts before and after."""
    rows = [
        tuple(text[:_LONG] + " …" * (len(text) > _LONG) for text in (s.source, s.before, s.after, s.references[0]))
        for s in samples
    ]
    return table(("source", "before: base model", "after: prefix", "target"), rows)


def _tagged(one: Judged) -> str:
    words = one.row["tokens"]
    lines = [("gold", one.gold)] if one.gold == one.answer else [("gold", one.gold), ("prefix", one.answer)]
    shown = []
    for who, tags in lines:
        text = " ".join(_word(word, tag, gold) for word, tag, gold in zip(words, tags, one.gold, strict=True))
        told = who if len(lines) > 1 else "both"
        shown.append(f'<div class="words"><span class="who">{told}</span><span>{text}</span></div>')
    return f'<div class="sample">{"".join(shown)}</div>'


def _word(word: str, tag: str, gold: str) -> str:
    off = ' class="off"' if tag != gold else ""
    if tag == OUTSIDE and not off:
        return escape(word)
    return f"<b{off}>{escape(word)}<small>{escape(tag)}</small></b>"


def _flat(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _exact(value: Any) -> str:
    """A setting as it can be given again; quotes show where spaces begin and end that are not one between words."""
    if value is None:
        return "–"
    if isinstance(value, str) and value and value.isprintable() and value == " ".join(value.split()):
        return value
    shown = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in shown)


def _class(number: bool) -> str:
    return ' class="num"' if number else ""
