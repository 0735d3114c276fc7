"""All tests: `python3 -m unittest` in the top folder."""
