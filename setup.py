"""What dlr_tf requires; everything else is in setup.cfg.

TensorFlow has builds with other names, such as `tensorflow-cpu`. They have the same files as
`tensorflow`, and a requirement cannot name several packages of which one is enough. So where one of
them is installed, `tensorflow` is not required: pip would write its files over theirs.
"""

from __future__ import annotations

import importlib.metadata
import re
import site
import sys
import sysconfig
from collections.abc import Iterable

from setuptools import setup

TENSORFLOW = "tensorflow>=2.16"
OTHERS = ["keras>=3.10", "numpy>=1.26"]
BUILDS = {
    "intel-tensorflow",
    "tensorflow-cpu",
    "tensorflow-cpu-aws",
    "tensorflow-intel",
    "tensorflow-macos",
    "tensorflow-rocm",
    "tf-nightly",
    "tf-nightly-cpu",
}


def requirements(installed: Iterable[str]) -> list[str]:
    """Return the requirements, given the names of the packages that are installed."""
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in installed}
    return OTHERS if names & BUILDS else [TENSORFLOW, *OTHERS]


def installed_packages() -> list[str]:
    """Return the names of the packages in the environment that pip installs into.

    pip builds with the interpreter of that environment, and hides its packages from `sys.path`.
    """
    folders = [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
    ]
    if sys.prefix == sys.base_prefix:  # a virtual environment does not use the user's packages
        folders.append(site.getusersitepackages())
    found = importlib.metadata.distributions(path=list(dict.fromkeys(folders)))
    return [package.metadata["Name"] or "" for package in found]


if __name__ == "__main__":
    setup(install_requires=requirements(installed_packages()))
