"""The pages that tintlab writes for people: one file each, which needs no other and no network.

All look alike: dark text on white, readable at 1280 px and on paper. Whatever comes from a user
goes through `text`, or stands in a figure as data.
"""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em;
       color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left;
       vertical-align: top } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #d97b29; height: .8em; display: inline-block; min-width: 2px }
figure { display: inline-block; margin: 0 .5em .5em 0 } figcaption { font-size: 10px; color: #666 }
code { overflow-wrap: anywhere } details { margin: .3em 0 }
img.small { height: 96px; image-rendering: pixelated }
"""


def page(title: str, body: Iterable[str], style: str = "", head: str = "") -> str:
    """A whole page.

    Args: title: as plain text. body: parts that are HTML already. style: rules of this page only.
        head: further elements of the head.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{text(title)}</title>{head}"
        f"<style>{STYLE}{style}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def text(value: object) -> str:
    """Anything as text of a page, whatever is in it."""
    return escape(str(value))


def figure(uri: str, caption: str, small: bool = False) -> str:
    """A picture with a line below it, which is HTML already.

    Args: small: of so few pixels that it is shown enlarged.
    """
    shown = ' class="small"' if small else ""
    return f'<figure><img{shown} src="{uri}" alt=""><figcaption>{caption}</figcaption></figure>'


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""
    head = "".join(f"<th>{text(name)}</th>" for name in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{lines}</table>"


def bars(counts: Sequence[tuple[str, int]], whole: int) -> str:
    """Named counts, each with a bar for its share of the whole."""
    rows = "".join(
        f'<tr><td>{text(name)}</td><td class="n">{count:,}</td>'
        f'<td><span class="bar" style="width:{20 * count / max(whole, 1):.2f}em"></span></td></tr>'
        for name, count in counts
    )
    return f"<table>{rows}</table>"


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names with their values, which are HTML already."""
    return f"<table>{''.join(f'<tr><th>{text(n)}</th><td>{v}</td></tr>' for n, v in rows)}</table>"
