"""The parts of `integration/benches/compare`: see its docstring."""
