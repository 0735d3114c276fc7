"""Tests of the whole command on loop-mounted btrfs; they need root."""
