#!/usr/bin/env bash
# make_synapse_venv.sh DIR: makes the virtual environment DIR with matrix-synapse in it, unless it is there.
# Only tests/oracle and tests/interop use it: Synapse is no dependency of Sennit, and none of it is in any other environment.
# Its versions are pinned in tests/oracle/constraints.txt; when that changes, the environment is made anew.
set -euo pipefail

dir=$1
root=$(cd "$(dirname "$0")/.." && pwd)
pins=$root/tests/oracle/constraints.txt
installed=$dir/installed-pins

cmp -s "$pins" "$installed" && exit 0
# What was made with other pins, or half made, is of no use.
rm -rf "$dir"
"$root/tools/make_venv.sh" "$dir" --install
echo "Installing Synapse, for the tests that compare with it, into $dir …"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -c "$pins" matrix-synapse
# Asked nothing, it answers nothing; but it has imported what it needs.
"$dir/bin/python" -I "$root/tests/oracle/synapse_side.py" </dev/null
cp "$pins" "$installed"
