# shellcheck shell=bash
# Debian packages, fetched and unpacked into a directory of ours; nothing is installed. To be sourced by bash.
#
# Versions are found when this runs: the archive drops old ones with every security update.

# This machine's architecture as Debian calls it, and as its file names have it.
debian_arch=$(dpkg --print-architecture)
debian_triplet=$(gcc -print-multiarch 2>/dev/null || true)
[[ -n $debian_triplet ]] || debian_triplet=$(uname -m)-linux-gnu

# debian_setup DIR: a private apt with its own lists, for this machine and arm64, that uses this machine's sources.
debian_setup() {
    local dir=$1
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/stamps"
    cat >"$dir/apt.conf" <<CONF
APT::Architectures { "$debian_arch"; "arm64"; };
Dir::State::lists "$dir/lists";
Dir::Cache "$dir/cache";
Acquire::Retries "3";
CONF
    export APT_CONFIG=$dir/apt.conf
    # Lists of the last day will do.
    if [[ -z $(find "$dir/stamps/lists" -mmin -1440 2>/dev/null) ]]; then
        apt-get -qq update || { echo "apt-get update failed: is there a network?" >&2; return 1; }
        touch "$dir/stamps/lists"
    fi
}

# debian_version PACKAGE PREFIX: the newest version that begins with PREFIX; nothing when there is none.
debian_version() {
    local version
    while read -r version; do
        if [[ $version == "$2"* ]]; then
            echo "$version"
            return
        fi
    done < <(apt-cache madison "$1" | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | sort -rV)
    echo "the Debian archive has no version $2* of $1" >&2
    return 1
}

# debian_depends PACKAGE=VERSION PATTERN: the first dependency whose name matches the extended regular expression.
debian_depends() {
    local found
    found=$(apt-cache show "$1" | sed -n 's/^Depends: //p' | head -n 1 | tr ',' '\n' |
        sed 's/^ *//; s/[ (:].*//' | grep -E -m 1 "^($2)\$") || true
    [[ -n $found ]] || { echo "$1 depends on nothing named $2" >&2; return 1; }
    echo "$found"
}

# debian_unpack DIR PACKAGE...: downloads the packages and unpacks them into DIR, unless exactly these are there.
debian_unpack() {
    local root=$1 work deb
    shift
    if [[ -f $root.packages && $(cat "$root.packages") == "$*" ]]; then
        return
    fi
    rm -rf "$root" "$root.packages"
    mkdir -p "$root"
    work=$(mktemp -d "$root.XXXXXX")
    # As root, apt downloads as another user, who may not write here; that is harmless, but it warns.
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$@") ||
        { rm -rf "$work"; echo "could not download: $*" >&2; return 1; }
    for deb in "$work"/*.deb; do
        dpkg-deb -x "$deb" "$root"
    done
    rm -rf "$work"
    echo "$*" >"$root.packages"
}

# debian_rustc DIR PREFIX [ARCH...]: unpacks Debian's rustc of that version with its standard library for this machine and
# each ARCH into DIR, and writes DIR/rustc, which runs it. A standard library is only good for its own rustc.
debian_rustc() {
    local root=$1 version std llvm arch packages missing
    version=$(debian_version rustc-web "$2") || return 1
    shift 2
    std=$(debian_depends "rustc-web=$version" libstd-rust-web-dev) || return 1
    std=$(debian_depends "$std=$version" 'libstd-rust-web-[0-9.]+') || return 1
    llvm=$(debian_depends "$std=$version" 'libllvm[0-9]+') || return 1
    # LLVM's own libraries come along too. The C and C++ libraries are the machine's.
    mapfile -t packages < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "$llvm:$debian_arch" | sed -n "s/^\([a-z][^ :]*\).*/\1:$debian_arch/p" | sort -u |
        grep -vE '^(libc6|libgcc-s1|libstdc\+\+6|libcrypt1|gcc-[0-9]+-base):')
    packages+=("rustc-web:$debian_arch=$version" "$std:$debian_arch=$version")
    for arch in $(printf '%s\n' "$debian_arch" "$@" | sort -u); do
        packages+=("libstd-rust-web-dev:$arch=$version")
    done
    debian_unpack "$root" "${packages[@]}" || return 1
    # bash, because dash drops variables with a hyphen in their name, such as cargo's CARGO_BIN_EXE_fake-gunyah.
    cat >"$root/rustc" <<WRAPPER
#!/bin/bash
LD_LIBRARY_PATH=$root/usr/lib/$debian_triplet:$root/usr/lib/llvm-${llvm#libllvm}/lib exec "$root/usr/bin/rustc" "\$@"
WRAPPER
    chmod +x "$root/rustc"
    "$root/rustc" --version || {
        missing=$(LD_LIBRARY_PATH=$root/usr/lib/$debian_triplet ldd "$root/usr/bin/rustc" "$root/usr/lib/$debian_triplet/"librustc_driver* |
            grep 'not found' || true)
        echo "Debian's rustc $version does not run here: $missing" >&2
        return 1
    }
}
