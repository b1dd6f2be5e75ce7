#!/bin/sh
# Hold the locked versions against the advisories that are known today: audit.sh PIP-AUDIT LOCK...
# Where no advisory service answers it says so and passes: tests/infra/install/test_lock.py holds a dated list of first safe versions.
set -eu
tool=$1
shift
for lock in "$@"; do
    answer=$("$tool" --requirement "$lock" --require-hashes --disable-pip --progress-spinner off 2>&1) && status=0 || status=$?
    case $answer in
    *"known vulnerabilit"*" in "*)
        printf '%s\n' "$answer" >&2
        exit 1
        ;;
    *"could not be audited"*) answered=no ;;
    *) if [ "$status" -eq 0 ]; then answered=yes; else answered=no; fi ;;
    esac
    if [ "$answered" = yes ]; then
        echo "safelight: $lock: no known vulnerability"
    else
        echo "safelight: $lock: not audited, no advisory service answers; the dated list in tests/infra/install/test_lock.py holds"
    fi
done
