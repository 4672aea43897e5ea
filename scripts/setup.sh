#!/bin/sh
# Sees to it that this machine can build and run mirror42: Rust, a C compiler, a Postgres server.
#
#   scripts/setup.sh          what `make demo` needs
#   scripts/setup.sh test     what `make test` needs too: rustfmt and clippy
#
# With nothing missing it prints nothing. Otherwise it says what it is about to install, and by which command,
# then does it: with apt-get on Debian and Ubuntu (as root, or through sudo), with rustup where the
# distribution's Rust is too old. Anywhere else it says what to install. Exit codes: 0 all is there, 1 it is not.
set -eu

oldest_postgres=14
cd "$(dirname "$0")/.."
oldest_rust=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
cargo_bin=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
PATH=$cargo_bin:$PATH
with_tools=no
[ "${1-}" != test ] || with_tools=yes

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Is version $1 (1.95.0, 15+248+deb12u1) at least $2 (1.89)?
at_least() {
    major=${1%%[!0-9]*}
    rest=${1#"$major"}
    rest=${rest#.}
    minor=${rest%%[!0-9]*}
    case $2 in *.*) want_minor=${2#*.} ;; *) want_minor=0 ;; esac
    [ -n "$major" ] || return 1
    [ "$major" -gt "${2%%.*}" ] || { [ "$major" -eq "${2%%.*}" ] && [ "${minor:-0}" -ge "${want_minor%%.*}" ]; }
}

# --- What is there -------------------------------------------------------------------------------------

# A compiler that can link: gcc alone, without the C library's files, cannot.
has_compiler() {
    have cc || return 1
    [ "$(uname)" = Linux ] || return 0
    [ "$(cc -print-file-name=crt1.o)" != crt1.o ]
}

rust_version() {
    have cargo && have rustc || return 1
    # Fails where rustup stands without a toolchain.
    version=$(rustc --version 2>/dev/null) || return 1
    version=${version#rustc }
    printf '%s\n' "${version%% *}"
}

has_rust() { version=$(rust_version) && at_least "$version" "$oldest_rust"; }

has_rust_tools() {
    sysroot=$(rustc --print sysroot 2>/dev/null) || return 1
    [ -x "$sysroot/bin/cargo-fmt" ] && [ -x "$sysroot/bin/cargo-clippy" ]
}

# The places that mirror42 itself looks at (src/pg/embedded/binaries.rs).
postgres_folders() {
    printf '%s' "$PATH" | tr ':' '\n'
    echo
    pg_config --bindir 2>/dev/null || true
    for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin \
        /usr/local/opt/postgresql@*/bin /Applications/Postgres.app/Contents/Versions/*/bin \
        /opt/homebrew/bin /usr/local/pgsql/bin; do
        printf '%s\n' "$folder"
    done
}

has_postgres() {
    postgres_folders | while read -r folder; do
        [ -x "$folder/initdb" ] || continue
        # A link from a folder of the PATH to one program: the others are beside what it points to.
        folder=$(dirname "$(readlink -f "$folder/initdb")")
        if ! [ -x "$folder/postgres" ] || ! [ -x "$folder/pg_ctl" ]; then continue; fi
        version=$("$folder/postgres" --version 2>/dev/null) || continue
        ! at_least "${version##*PostgreSQL) }" "$oldest_postgres" || { echo found && break; }
    done | grep -q found
}

missing=
has_compiler || missing="$missing, a C compiler"
if ! has_rust; then
    missing="$missing, Rust $oldest_rust or later"
elif [ "$with_tools" = yes ] && ! has_rust_tools; then
    missing="$missing, rustfmt and clippy"
fi
has_postgres || missing="$missing, a Postgres server of version $oldest_postgres or later"
[ -n "$missing" ] || exit 0
say "missing on this machine: ${missing#, }"

# --- What to do about it --------------------------------------------------------------------------------

if [ "$(uname)" = Darwin ]; then
    has_compiler || say "run: xcode-select --install"
    has_rust || say "run: brew install rust"
    ! has_rust || has_rust_tools || say "run: brew reinstall rust"
    has_postgres || say "run: brew install postgresql@17"
    fail "install what is missing, then run make again"
fi
if ! have apt-get; then
    say "install with this system's package manager: gcc (or clang), a Postgres server (often postgresql-server)"
    say "and Rust $oldest_rust or later, from the system or by https://www.rust-lang.org/tools/install"
    fail "install what is missing, then run make again"
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif have sudo; then
    as_root=sudo
else
    as_root=none
fi

# Runs a command as root, and shows it first.
root() {
    say "+ ${as_root:+$as_root }$*"
    # shellcheck disable=SC2086 # empty for root
    $as_root "$@"
}

candidate() {
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | sed 's/^[0-9]*://; s/^(none)$//'
}

# Old lists name packages that are no longer served, and a new container has none.
if [ "$as_root" != none ]; then
    say "refreshing the package lists"
    root apt-get update -qq || say "warning: not all package lists could be refreshed"
fi

packages=
has_compiler || packages="$packages gcc libc6-dev"
rust=none
if ! has_rust; then
    if have rustup; then
        rust=toolchain
    elif at_least "$(candidate cargo)" "$oldest_rust" && at_least "$(candidate rustc)" "$oldest_rust"; then
        rust=packages
        packages="$packages cargo rustc rustfmt rust-clippy"
    elif [ -n "$(candidate rustup)" ] && [ "$as_root" != none ]; then
        rust=toolchain
        packages="$packages rustup"
    else
        rust=installer
        have curl || packages="$packages curl ca-certificates"
    fi
elif [ "$with_tools" = yes ] && ! has_rust_tools; then
    if have rustup; then rust=components; else packages="$packages rustfmt rust-clippy"; fi
fi
needs_postgres=no
if ! has_postgres; then
    version=$(candidate postgresql)
    [ -z "$version" ] || at_least "$version" "$oldest_postgres" ||
        fail "this release has Postgres ${version%%[!0-9]*}; install Postgres $oldest_postgres or later from https://apt.postgresql.org, or use a newer release"
    needs_postgres=yes
    packages="$packages postgresql"
fi
packages=${packages# }

install="apt-get install -y --no-install-recommends"
installer="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy --no-modify-path"

if [ -n "$packages" ] && [ "$as_root" = none ]; then
    say "this needs root, and there is no sudo; as root, run:"
    say "  apt-get update && $install $packages"
    fail "install these, then run make again"
fi
[ -z "$packages" ] || say "installing by apt-get: $packages"
[ "$needs_postgres" = no ] || say "(Postgres as programs only: no server is set up or started; mirror42 starts its own under data/)"
case $rust in
toolchain) say "installing by rustup, for this user: the stable toolchain, as the default" ;;
components) say "installing by rustup, for this user: rustfmt and clippy" ;;
installer) say "installing by Rust's own installer, into ${cargo_bin%/bin}: the stable toolchain (the distribution has $(candidate rustc))" ;;
esac

# --- Doing it -------------------------------------------------------------------------------------------

# Debian's package makes a cluster and starts it, on a port, at each boot. A file in this folder, which its
# configuration includes, says no; it goes again, so that later installations are as Debian means them.
no_cluster=/etc/postgresql-common/createcluster.d/mirror42-setup.conf
clean_up() { [ "$needs_postgres" = no ] || root rm -f "$no_cluster"; }

if [ -n "$packages" ]; then
    trap clean_up EXIT
    trap 'exit 1' HUP INT TERM
    if [ "$needs_postgres" = yes ]; then
        root mkdir -p "${no_cluster%/*}"
        root sh -c "echo 'create_main_cluster = false' >$no_cluster"
    fi
    # shellcheck disable=SC2086 # words
    root env DEBIAN_FRONTEND=noninteractive $install $packages </dev/null
    clean_up
    trap - EXIT
fi
case $rust in
toolchain)
    say "+ rustup toolchain install stable --profile minimal -c rustfmt -c clippy && rustup default stable"
    if ! rustup toolchain install stable --profile minimal -c rustfmt -c clippy || ! rustup default stable; then
        fail "rustup could not install the stable toolchain"
    fi
    ;;
components)
    say "+ rustup component add rustfmt clippy"
    rustup component add rustfmt clippy || fail "rustup could not add rustfmt and clippy"
    ;;
installer)
    say "+ $installer"
    # To a file first: a download that breaks off must not be run.
    script=$(mktemp)
    trap 'rm -f "$script"' EXIT
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs >"$script" || fail "could not download Rust's installer"
    sh "$script" -y --profile minimal -c rustfmt -c clippy --no-modify-path ||
        fail "Rust's installer failed"
    ;;
esac

has_compiler || fail "there is still no C compiler that can link"
has_rust || fail "there is still no Rust $oldest_rust or later: found $(rust_version || echo none)"
[ "$with_tools" = no ] || has_rust_tools || fail "rustfmt or clippy is still missing"
has_postgres || fail "there is still no Postgres server of version $oldest_postgres or later"
say "all is there"
