#!/usr/bin/env bash
# make_venv.sh DIR [--install]: makes the virtual environment DIR with Python 3.11 or newer, unless it is there.
# With --install, what a bare Debian lacks for it is installed; without, the user is told what to type.
set -euo pipefail

dir=$1
mode=${2:-}
tools=$(dirname "$0")
[ -x "$dir/bin/python" ] && [ -x "$dir/bin/pip" ] && exit 0

say() { echo "sennit: $*" >&2; }
find_python() {
    local name
    for name in ${PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ] && [ "$mode" = --install ]; then
    "$tools/need.sh" "command -v python3" python3 python3-venv
    python=$(find_python)
fi
if [ -z "$python" ]; then
    say "Python 3.11 or newer is needed, and none was found. On Debian 12:  sudo apt-get install python3 python3-venv"
    say "(One in an unusual place:  make PYTHON=/path/to/python3 run)"
    exit 1
fi

# Debian's python3 comes without ensurepip, and `python -m venv` would then leave half an environment behind.
can_make="'$python' -c 'import ensurepip, venv'"
if ! bash -c "$can_make" 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$mode" = --install ]; then
        "$tools/need.sh" "$can_make" "$package"
    else
        say "$python cannot make virtual environments. Please type:  sudo apt-get install $package"
        exit 1
    fi
fi

rm -rf "$dir"
"$python" -m venv "$dir"
