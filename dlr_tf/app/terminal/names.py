"""Names of files and classes, as they are printed and written."""

from __future__ import annotations

import unicodedata


def printable_name(name: str) -> str:
    r"""Return a name in which everything that cannot be printed is escaped.

    A name of a file on Linux can be any bytes. Python shows a byte that is not UTF-8 as a lone
    surrogate, which no text file, JSON or terminal takes. Control characters are escaped too. The
    path itself is still needed to open the file.

    >>> printable_name("caf\udce9"), printable_name("café"), printable_name("two\nlines")
    ('caf\\xe9', 'café', 'two\\nlines')
    """
    return "".join(map(_printable, name))


def _printable(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, as `os.fsdecode` keeps it
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs"):
        return character.encode("unicode_escape").decode()
    return character
