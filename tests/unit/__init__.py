"""Tests of decisions and parsers: no disk, no root."""
