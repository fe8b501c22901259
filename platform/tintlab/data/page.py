"""What reports for people have in common: pages of one file, which need no other and no network."""

from collections.abc import Sequence
from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em;
       color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left;
       vertical-align: top } td.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #d97b29; height: .8em; display: inline-block; min-width: 2px }
figure { display: inline-block; margin: 0 .5em .5em 0 } figcaption { font-size: 10px; color: #666 }
code { overflow-wrap: anywhere } details { margin: .3em 0 }
img.small { height: 96px; image-rendering: pixelated }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A page of some parts in HTML, under its title."""
    name = escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{name}</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def figure(uri: str, caption: str, small: bool = False) -> str:
    """A picture with a line in HTML below it.

    Args: small: of so few pixels that it is shown enlarged.
    """
    shown = ' class="small"' if small else ""
    return f'<figure><img{shown} src="{uri}" alt=""><figcaption>{caption}</figcaption></figure>'


def bars(counts: Sequence[tuple[str, int]], whole: int) -> str:
    """Counts with a bar for the share that each is of the whole."""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{count:,}</td>'
        f'<td><span class="bar" style="width:{20 * count / max(whole, 1):.2f}em"></span></td></tr>'
        for name, count in counts
    )
    return f"<table>{rows}</table>"


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text; what is not in the first column is a number or short."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{lines}</table>"
