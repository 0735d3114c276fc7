"""Incremental backups of btrfs subvolumes."""

__version__ = "1.0.0"
