"""Packaging; the version is the one in btrfs_backup/__init__.py."""

import atexit
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "btrfs_backup" / "__init__.py").read_text(), re.MULTILINE)
# Who installs as root has nothing of root's in his clone afterwards.
BUILD = tempfile.mkdtemp(prefix="btrfs-backup-build-")
atexit.register(shutil.rmtree, BUILD, ignore_errors=True)

setup(
    name="btrfs-backup",
    version=VERSION[1] if VERSION else "0",
    description="Incremental backups of btrfs subvolumes, to local disks and over ssh",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="MIT",
    python_requires=">=3.10",
    options={"build": {"build_base": BUILD}, "egg_info": {"egg_base": BUILD}},
    packages=find_packages(include=["btrfs_backup", "btrfs_backup.*"]),
    package_data={"btrfs_backup": ["manual/*.rst"]},
    entry_points={"console_scripts": ["btrfs-backup = btrfs_backup.__main__:run"]},
    classifiers=[
        "Environment :: Console",
        "Intended Audience :: End Users/Desktop",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Archiving :: Backup",
    ],
)
