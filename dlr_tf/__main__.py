"""The entry of the command `dlr-tf`: Ctrl-C stops it at once, also while the rest is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from dlr_tf.app.startup import stop_at_once


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: see `dlr_tf.app.cli`."""
    with stop_at_once():
        from dlr_tf.app import cli
    return cli.main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
