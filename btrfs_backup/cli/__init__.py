"""The front desk: what was asked for, and what can be asked for."""
