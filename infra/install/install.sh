#!/bin/sh
# Install exactly the packages of lock files, and this project, into a virtual environment.
#   infra/install/install.sh PYTHON ENVIRONMENT LOCK...
#
# uv installs (40 s from a cold cache where pip takes 160 s); it is pinned by hash in infra/install/bootstrap.lock and
# comes by pip. Where it cannot be had, or fails, pip installs the same lock. pip's settings for the index and the
# certificates are handed on to uv, which does not read them. Python compiles modules when they are first imported: the
# 7,000 that are used in seven seconds; all 19,000 would take a minute and 390 MB.
set -eu
if [ $# -lt 3 ]; then
    echo "usage: infra/install/install.sh PYTHON ENVIRONMENT LOCK..." >&2
    exit 2
fi
python=$1
environment=$2
shift 2
here=$(cd "$(dirname "$0")/../.." && pwd)

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version="not there"
case $version in
3.11 | 3.12 | 3.13) ;;
*)
    echo "safelight: Python 3.11, 3.12 or 3.13 is needed, and '$python' is $version; name another: make PYTHON=python3.12" >&2
    exit 1
    ;;
esac

if [ -e "$environment" ] && [ ! -f "$environment/pyvenv.cfg" ]; then
    echo "safelight: $environment is there and is no virtual environment; name another folder" >&2
    exit 1
fi
is_ours() { # made by this Python, whole, and with these locks: what others brought would stay, as a second TensorFlow
    "$environment/bin/python" -c "import sys, pip; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null &&
        { [ ! -f "$environment/.locks" ] || [ "$(cat "$environment/.locks")" = "$*" ]; }
}
if [ -e "$environment" ] && ! is_ours "$@"; then
    rm -rf "$environment"
fi
if [ ! -e "$environment" ] && ! "$python" -m venv "$environment"; then
    rm -rf "$environment"
    echo "safelight: '$python' cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
fi

export PIP_USER=0
run_pip() {
    "$environment/bin/python" -m pip --disable-pip-version-check "$@"
}

# The index, the certificates and the proxy of pip's settings (PIP_* variables or its own files), for uv. An extra
# index is left out: every package of the locks is public, and pip, which knows it, is still there if uv fails.
hand_on_settings() {
    settings=$(run_pip config list 2>/dev/null || true)
    index=$(find_setting index-url)
    certificates=$(find_setting cert)
    proxy=$(find_setting proxy)
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"; fi
    if [ -n "$certificates" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificates}"; fi
    if [ -n "$proxy" ]; then export HTTPS_PROXY="${HTTPS_PROXY:-$proxy}" HTTP_PROXY="${HTTP_PROXY:-$proxy}"; fi
    export UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-120}"
}
find_setting() { # NAME: the last line `section.NAME='value'` of $settings; the environment comes last
    printf '%s\n' "$settings" | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1
}

printf '%s\n' "$*" >"$environment/.locks"

# The positional parameters become: -r LOCK -r LOCK …
count=$#
while [ "$count" -gt 0 ]; do
    lock=$1
    shift
    set -- "$@" -r "$lock"
    count=$((count - 1))
done

install_with_uv() {
    case ${SAFELIGHT_INSTALLER:-uv}/${PIP_NO_INDEX:-} in
    uv/ | uv/0) ;;
    *) return 1 ;;
    esac
    run_pip install --quiet --only-binary :all: --require-hashes -r "$here/infra/install/bootstrap.lock" || return 1
    (hand_on_settings && "$environment/bin/uv" pip install --python "$environment/bin/python" \
        --require-hashes "$@")
}

echo "safelight: installing for Python $version into $environment"
if ! install_with_uv "$@"; then
    echo "safelight: installing with pip, which takes some minutes"
    run_pip install --no-compile --require-hashes "$@"
fi
# The project itself, built by the locked setuptools: nothing is fetched without a hash.
run_pip install --quiet --require-hashes -r "$here/infra/install/build.lock"
export PYTHONWARNINGS=ignore # setuptools has ten lines for every editable installation
run_pip install --quiet --no-deps --no-build-isolation --no-index --editable "$here"
