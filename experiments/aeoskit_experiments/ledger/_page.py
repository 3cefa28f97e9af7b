"""The ledger as one HTML file that needs nothing else: style and pictures are in it."""

import base64
import struct
from html import escape
from pathlib import Path

from aeoskit_experiments.ledger._claim import EXPERIMENTS, REFERENCE, Verdict
from aeoskit_experiments.ledger._ledger import Ledger, LedgerRun, Row
from aeoskit_experiments.ledger._words import (
    TAGS,
    bounds_words,
    facts,
    figures_of,
    headline,
    number_words,
    ratios_words,
    seconds_words,
    spread_words,
)

_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
_PNG = b"\x89PNG"
# Beside its color each verdict has a sign and its word.
_SIGNS = {"pass": "✓", "fail": "✗", "unreachable": "–"}
_STYLE = """
:root { color-scheme: light dark;
  --page: #fafaf8; --card: #fff; --ink: #1c1e21; --soft: #5c6370; --rule: #dfe1e6;
  --pass: #14693a; --pass-bg: #e0f3e6; --fail: #a3161f; --fail-bg: #fde4e4;
  --unreachable: #565c66; --unreachable-bg: #eceef1; }
@media (prefers-color-scheme: dark) { :root {
  --page: #16181c; --card: #1f2227; --ink: #e6e8eb; --soft: #a2a9b4; --rule: #373c45;
  --pass: #7fdca0; --pass-bg: #173824; --fail: #ff9c9c; --fail-bg: #4a1d20;
  --unreachable: #b6bcc6; --unreachable-bg: #30343b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 0; flex: 1 1 20rem; }
p { margin: 0; }
code { font: .86em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.lead { font-size: 1.05rem; margin-bottom: 1rem; }
.soft { color: var(--soft); font-size: .86rem; }
.note { border-left: 4px solid var(--fail); padding-left: .7rem; margin: .8rem 0; }
.tags { margin-top: 1.5rem; }
ul { margin: 0; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0;
  font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.chips { display: flex; flex-wrap: wrap; gap: .4rem; padding: 0; margin: 1rem 0; list-style: none; }
.chips a { text-decoration: none; }
a { color: inherit; }
.verdict { display: inline-block; white-space: nowrap; border-radius: 1rem; padding: .08rem .65rem;
  font-size: .86rem; font-weight: 600; }
.pass { color: var(--pass); background: var(--pass-bg); }
.fail { color: var(--fail); background: var(--fail-bg); }
.unreachable { color: var(--unreachable); background: var(--unreachable-bg); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
  padding: 1rem; margin-top: 1.2rem; }
header { display: flex; flex-wrap: wrap; gap: .4rem .8rem; align-items: center;
  margin-bottom: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .82rem; }
th, td { padding: .45rem .9rem .45rem 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
tbody tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
td:last-child, th:last-child { padding-right: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; margin-top: 1rem; }
figure { margin: 0; }
/* The pictures are made for white paper. */
figure img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
figcaption { color: var(--soft); font-size: .86rem; }
@media (max-width: 44rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--rule); }
  tbody tr:last-child { border-bottom: 0; }
  td, td.number { display: block; border: 0; padding: .1rem 0; text-align: left;
    white-space: normal; }
  td[data-name] { display: grid !important; grid-template-columns: 5.2rem 1fr; }
  td[data-name]::before { content: attr(data-name); color: var(--soft); font-size: .86rem; }
  td[data-name] > * { grid-column: 2; justify-self: start; }
  td[data-name]:empty { display: none !important; }
}
"""


def html_page(ledger: Ledger, folder: Path) -> str:
    """The ledger as one HTML page, its figures in it.

    Args:
        ledger: All of it.
        folder: Its folder, where the figures are.

    Returns:
        The page.
    """
    chips = "".join(
        f'<li><a href="#{name}">{_verdict(verdict, f"{name} ")}</a></li>'
        for name, verdict in ledger.experiments.items()
    )
    said = "".join(
        f"<dt>{escape(name)}</dt><dd>{_fact(name, text)}</dd>"
        for name, text in facts(ledger).items()
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in ledger.notes)
    ratios = "" if ledger.ratios is None else _figure(ratios_words(ledger), folder / ledger.ratios)
    ratios = f"<section>{ratios}</section>\n" if ratios else ""
    shown: dict[str, str] = {}
    sections = "".join(_section(ledger, name, folder, shown) for name in ledger.experiments)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The ledger of claims</title><style>{_STYLE}</style></head>\n<body><main>"
        f'<h1>The ledger of claims</h1><p class="lead">{escape(headline(ledger))}.</p>'
        f'<ul class="chips">{chips}</ul><dl>{said}</dl>{notes}\n{ratios}{sections}'
        f'{_failures(ledger.works)}<p class="soft tags">{escape(TAGS)}</p></main></body></html>\n'
    )


def _fact(name: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if name == "command" else escape(text)


def _verdict(verdict: Verdict, before: str = "") -> str:
    said = f"{escape(before)}{_SIGNS[verdict]} {verdict}"
    return f'<span class="verdict {verdict}">{said}</span>'


def _section(ledger: Ledger, experiment: str, folder: Path, shown: dict[str, str]) -> str:
    """An experiment; `shown` has where each picture stands, as several may read one run."""
    rows = [row for row in ledger.rows if row.experiment == experiment]
    # A reason that several rows share stands once.
    before = ["", *(row.bounds_reason for row in rows)]
    body = "".join(
        _row(row, "" if row.bounds_reason == last else row.bounds_reason)
        for row, last in zip(rows, before, strict=False)
    )
    pictures, elsewhere = "", ""
    for label, figure in figures_of(ledger, rows):
        if shown.setdefault(figure, experiment) == experiment:
            pictures += _figure(f"{experiment}: {label}", folder / figure)
        else:
            there = shown[figure]
            elsewhere += (
                f'<p class="soft">The figure of this run ({escape(label)}) stands at '
                f'<a href="#{there}">{there}</a>.</p>'
            )
    # The column of settings stands where there is more than the reference.
    settings = "<th>setting</th>" if any(row.setting != REFERENCE for row in rows) else "<th></th>"
    return (
        f'<section id="{experiment}"><header><h2>{experiment}: '
        f"{escape(EXPERIMENTS[experiment])}</h2>{_verdict(ledger.experiments[experiment])}</header>"
        f'<table><thead><tr><th>claim</th>{settings}<th class="number">value</th>'
        '<th class="number">bounds</th><th>verdict</th><th class="number">time</th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
        + (f'<div class="figures">{pictures}</div>' if pictures else "")
        + elsewhere
        + "</section>\n"
    )


def _row(row: Row, why: str) -> str:
    setting = "" if row.setting == REFERENCE else escape(row.setting)
    reason = f'<p class="soft">{escape(row.reason)}</p>' if row.reason else ""
    value = escape(number_words(row.value, row.unit))
    spread = escape(spread_words(row))
    value += f'<div class="soft">{spread}</div>' if spread else ""
    why = f'<p class="soft">{escape(why)}</p>' if why else ""
    return (
        f'<tr><td>{escape(row.says)} <code class="soft">{escape(row.claim)}</code>{why}</td>'
        f'<td data-name="setting">{setting}</td>'
        f'<td class="number" data-name="value">{value}</td>'
        f'<td class="number" data-name="bounds">{escape(bounds_words(row.bounds, row.unit))}</td>'
        f'<td data-name="verdict">{_verdict(row.verdict)}{reason}</td>'
        f'<td class="number" data-name="time">{escape(seconds_words(row.seconds))}</td></tr>'
    )


def _figure(label: str, path: Path) -> str:
    kind = _TYPES.get(path.suffix)
    if kind is None or not path.is_file():
        return ""
    picture = path.read_bytes()
    data = base64.b64encode(picture).decode()
    said = escape(label, quote=True)
    size = ""
    if picture.startswith(_PNG):
        # At 200 dots an inch: half of them are the size that was meant.
        width, height = (number // 2 for number in struct.unpack(">II", picture[16:24]))
        size = f' width="{width}" height="{height}"'
    return (
        f'<figure><img alt="{said}"{size} src="data:{kind};base64,{data}">'
        f"<figcaption>{said}</figcaption></figure>"
    )


def _failures(works: tuple[LedgerRun, ...]) -> str:
    """The runs that did not come to an end, with why."""
    lines = "".join(
        f"<li>{escape(work.label)}: {escape(work.status)}"
        f"{escape(f': {work.error}') if work.error else ''}</li>"
        for work in works
        if work.status in ("failed", "refused", "interrupted")
    )
    if not lines:
        return ""
    return f"<section><header><h2>Runs that did not end</h2></header><ul>{lines}</ul></section>"
