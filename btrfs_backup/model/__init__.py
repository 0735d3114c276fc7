"""Values and decisions: pure, without I/O and without a clock."""
