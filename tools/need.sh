#!/usr/bin/env bash
# need.sh CHECK PACKAGE...: makes sure that the shell command CHECK succeeds, if need be by Debian's PACKAGEs.
# As root it installs them, otherwise through sudo when that asks nothing; else it says what to type.
set -euo pipefail

check=$1
shift
export PATH=$PATH:/usr/sbin:/sbin
there() { bash -c "$check" >/dev/null 2>&1; }
say() { echo "sennit: $*" >&2; }

there && exit 0

if ! command -v apt-get >/dev/null; then
    say "this machine lacks what Debian has in: $*"
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=(env)
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo env)
else
    say "a package is missing. Please type:  sudo apt-get install $*"
    exit 1
fi

say "installing $*"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; }
# The package lists of a fresh machine are empty or old.
if ! { "${as_root[@]}" apt-get update && install "$@"; } >"$log" 2>&1 || ! there; then
    tail -n 30 "$log" >&2
    say "could not install: $*"
    exit 1
fi
