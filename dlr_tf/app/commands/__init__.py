"""One file per command; each reads like its own summary. May import every room below."""
