#!/bin/sh
# Nothing, flags, or a Python file as first argument: run by python (nothing and flags: standalone_inference.py). Else: as it is.
set -e
case "${1:-}" in
  "" | -*) exec python standalone_inference.py "$@" ;;
  *.py) exec python "$@" ;;
  *) exec "$@" ;;
esac
