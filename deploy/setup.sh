#!/bin/sh
# Finds Python 3.11 and hands over to deploy/setup, which makes the checkout's .venv.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

for candidate in ${AURICLE_PYTHON:-python3.11 python3 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        exec "$candidate" -I "$root/deploy/setup" "$@"
    fi
done

echo "setup: Python 3.11 is missing (tried ${AURICLE_PYTHON:-python3.11, python3 and python});" \
    "install it, or set AURICLE_PYTHON to its path" >&2
exit 1
