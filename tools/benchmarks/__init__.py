"""Subcommands of tools/benchmark.py by name: every module but measure has define_flags() and run(plan)."""
