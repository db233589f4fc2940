"""Names and sentences made safe for what they are written into: one escape for each format.

A class or a domain is called whatever its folder is called, a bundle may come from anywhere: in a table, a
report or a model card its names must stay text. Every output of this package takes its escape from here.
Line breaks, other control characters and bytes that are no UTF-8 are shown as `names.shown` shows them.
"""

from __future__ import annotations

import html
import re

from vl2v_deploy.names import shown

# What starts a block where a line of Markdown begins: heading, list, quotation, rule.
_MARKDOWN_BLOCK = re.compile(r"([-+=#>]|\d+(?=[.)]))")
_MARKDOWN = re.compile(
    r"""(?P<backslashed> [\\`*|~] | \](?=[(\[:]) | (?<![^\W_])_ | _(?![^\W_]))
    | (?P<lt> <) | (?P<amp> &(?=\#|\w+;))""",
    re.VERBOSE,
)
_LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_FORMULA = ("=", "+", "-", "@")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def markdown_cell(text: str) -> str:
    r"""Text within a line of Markdown, such as a cell of a table: no markup, no HTML, no second cell.

    Only what would mean something is escaped, so that ordinary names stay readable in the source.

    >>> print(markdown_cell("a|b <script> bytes_to_label [x](y)"))
    a\|b &lt;script> bytes_to_label [x\](y)
    """

    def escaped(found: re.Match[str]) -> str:
        match found.lastgroup:
            case "lt":
                return "&lt;"
            case "amp":
                return "&amp;"
        return f"\\{found[0]}"

    return _MARKDOWN.sub(escaped, shown(text).strip())


def markdown_text(text: str) -> str:
    r"""Text that begins a line of Markdown: a cell's, and it starts no heading, list, quotation or rule.

    >>> print(markdown_text("# 1"), markdown_text("1. cat"))
    \# 1 1\. cat
    """
    cell = markdown_cell(text)
    found = _MARKDOWN_BLOCK.match(cell)
    if found is None:
        return cell
    begun = found[0]
    return f"{begun}\\{cell[len(begun) :]}" if begun[0].isdigit() else f"\\{cell}"


def latex_cell(text: str) -> str:
    r"""Text in a LaTeX document: no command, no comment, no option of the line before.

    >>> print(latex_cell(r"50 %, \input{x}"), latex_cell("[2cm]"))
    50 \%, \textbackslash{}input\{x\} {}[2cm]
    """
    escaped = "".join(_LATEX.get(character, character) for character in shown(text))
    # A row follows \\, \toprule or \midrule, which would take these for their option.
    return f"{{}}{escaped}" if escaped.lstrip().startswith(("[", "*")) else escaped


def latex_comment(text: str) -> str:
    r"""A comment of one line in a LaTeX document, which no line break in the text ends."""
    return f"% {shown(text)}"


def csv_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers.

    A quote is put before =, +, - or @, as OWASP's page on CSV injection recommends.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("cat")
    ("'=1+1", '-0.5', 'cat')
    """
    plain = shown(text)
    is_formula = plain.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(plain)
    return f"'{plain}" if is_formula else plain


def html_text(text: str) -> str:
    """Text or the value of an attribute in HTML and SVG.

    >>> html_text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(shown(text))
