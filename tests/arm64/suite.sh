# shellcheck shell=bash
# The test suite on the emulated machine. To be sourced by bash, after machine.sh.

# What takes too long in full where the processor is emulated. Each is a number that the test itself takes from there.
suite_rounds=(GUNYAH_ECHO_ROUNDS=500 GUNYAH_STRESS_EXITS=2000 GUNYAH_KILLS=4 PROPTEST_CASES=6 GUNYAH_MODEL_PREEMPTIONS=1)

# build_suite SELECTION...: the test binaries, and microvm. $target/executables gets a line for each executable: is it a
# test?, its name, its package's directory, its path.
build_suite() {
    cross_cargo test --no-run "$@" --message-format json-render-diagnostics >"$target/artifacts.json"
    # The examples as programs, which tests run; above they are built with their tests, or not at all.
    cross_cargo build -p vmm-adapter --features kvm --examples --message-format json-render-diagnostics >>"$target/artifacts.json"
    sed -nE 's/.*"manifest_path":"([^"]+)\/Cargo\.toml","target":\{"kind":\["[^]]*\],"crate_types":\["[^]]*\],"name":"([^"]+)".*"test":(true|false)\},"features".*"executable":"([^"]+)".*/\3\t\2\t\1\t\4/p' \
        "$target/artifacts.json" | sort -u -t$'\t' -k3,3 -k2,2 -k4,4 >"$target/executables"
    grep -q ^true "$target/executables" || die "cargo built no test binary"
    grep -q "^false"$'\t'"microvm"$'\t' "$target/executables" || die "cargo built no example microvm"
    step "$(grep -c ^true "$target/executables") test binaries built"
}

# The root file system has the work tree and the binaries where they are here: tests look for their files there.
suite_files() {
    local root=$1 file path source
    mkdir -p "$root$workspace" "$root$target/aarch64-unknown-linux-gnu/tmp" "$root$target/tmp"
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        if [[ -e $file ]]; then
            cp --parents -- "$file" "$root$workspace/"
        fi
    done
    while IFS=$'\t' read -r _ _ _ path; do
        mkdir -p "$root$(dirname "$path")"
        "$cross_strip" -o "$root$path" "$path"
    done <"$target/executables"
    # Some tests compile a C program when they run. The machine has no compiler: its cc hands out what is built here.
    git ls-files -z 'tests/fake-gunyah/tests/*.c' | while IFS= read -r -d '' source; do
        mkdir -p "$root/built$workspace/$(dirname "$source")"
        "$cross_cc" -O2 -static -pthread -s -o "$root/built$workspace/$source" "$source"
    done
    cat >"$root/bin/cc" <<'CC'
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    -o) out=$2; shift ;;
    *.c) source=$(realpath "$1") ;;
    esac
    shift
done
[ -e "/built$source" ] || { echo "cc: this machine has no compiler, and $source was not built before" >&2; exit 1; }
exec cp "/built$source" "$out"
CC
    chmod +x "$root/bin/cc"
}

# suite_commands SELECTION...: the rest of init. What cannot run there is said here.
suite_commands() {
    local is_test name dir path label arguments skip entry test reason
    local -A used=()
    cat <<'INIT'
run() {
    label=$1 dir=$2
    shift 2
    echo "=== run $label"
    before=$(cut -d. -f1 /proc/uptime)
    (cd "$dir" && CARGO_MANIFEST_DIR=$dir timeout 900 "$@" </dev/null 2>&1)
    echo "=== end $? $(($(cut -d. -f1 /proc/uptime) - before)) $label"
}
INIT
    printf 'export'
    printf ' %q' "${suite_rounds[@]}"
    echo
    while IFS=$'\t' read -r is_test name dir path; do
        label=${dir#"$workspace/"}:$name
        if [[ $is_test == false ]]; then
            if [[ $name == microvm ]]; then
                printf 'run %q %q %q\n' vmm-adapter:example/microvm "$workspace" "$path"
            fi
            continue
        fi
        arguments=()
        skip=no
        while IFS=$'\t' read -r entry test reason; do
            [[ $entry == "$label" ]] || continue
            used[$entry/$test]=1
            echo "arm64: not run here: $label $test: $reason" >&2
            if [[ $test == '*' ]]; then skip=yes; else arguments+=(--skip "$test"); fi
        done < <(grep -vE '^(#|$)' "$here/not-in-qemu")
        if [[ $skip == no ]]; then
            printf 'run %q %q %q' "$label" "$dir" "$path"
            printf ' %q' "${arguments[@]}"
            echo
        fi
    done <"$target/executables"
    while IFS=$'\t' read -r entry test _; do
        [[ $* != --workspace || -n ${used[$entry/$test]:-} ]] || die "not-in-qemu: $entry is not built any more"
    done < <(grep -vE '^(#|$)' "$here/not-in-qemu")
}

# judge_suite LOG PLANNED: a line for each binary, and the output of those that failed.
judge_suite() {
    local log=$1 planned=$2 verdict=0 ran=0 code seconds label result total
    while read -r code seconds label; do
        ran=$((ran + 1))
        result=$(awk -v label="$label" '
            index($0, "=== run " label) && substr($0, index($0, "=== run ")) == "=== run " label { inside = 1; passed = failed = ignored = 0; next }
            index($0, "=== end ") && inside { print passed + 0 " passed, " failed + 0 " failed, " ignored + 0 " ignored"; exit }
            inside && /test result: / { sub(/.*test result: [a-zA-Z]+\. /, ""); passed += $1; failed += $3; ignored += $5 }' "$log")
        if [[ $label == *:example/* ]]; then
            result=$(grep -qF "$microvm_says" "$log" && echo "said \"$microvm_says\"") || { result='did not say what it must'; code=${code/#0/no}; }
        elif [[ $result != *' 0 ignored' ]]; then
            code=${code/#0/ignored}
        fi
        printf 'arm64: %-7s %3s s  %-45s %s\n' "$([[ $code == 0 ]] && echo ok || echo "FAIL($code)")" "$seconds" "$label" "$result"
        if [[ $code != 0 ]]; then
            verdict=1
            awk -v label="$label" 'index($0, "=== run " label) { inside = 1 } inside; index($0, "=== end ") && inside { exit }' "$log" | tail -n 200
        fi
    done < <(sed -nE 's/.*=== end ([0-9]+) (-?[0-9]+) (.*)$/\1 \2 \3/p' "$log")
    [[ $ran == "$planned" ]] || die "$ran of $planned programs ran"
    total=$(sed -nE 's/.*test result: [a-zA-Z]+\. ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$log" |
        awk '{ passed += $1; failed += $2 } END { print passed + 0 " passed, " failed + 0 " failed" }')
    step "tests on arm64: $total"
    [[ $total != '0 passed'* ]] || die "no test ran"
    return "$verdict"
}

# emulated_suite SELECTION...: all of it.
emulated_suite() {
    local root=$target/suite-root planned
    build_suite "$@"
    machine_root "$root"
    suite_files "$root"
    suite_commands "$@" >>"$root/init"
    planned=$(grep -c '^run ' "$root/init")
    step "root file system of $(du -sm "$root" | cut -f1) MiB, $planned programs; doc tests need cargo and do not run here"
    run_machine "$root" suite 5400 3072
    judge_suite "$target/suite.log" "$planned"
}

# native_suite SELECTION...: on this machine, with the toolchain that it has.
native_suite() {
    ARM64_RIG_KVM=required cargo test --locked "$@"
    cargo run --locked --release --example microvm </dev/null | tee /dev/stderr | grep -qF "$microvm_says"
    step "everything ran natively"
}

# judge_conformance LOG: the table, with a column for KVM that is neither missing nor broken.
judge_conformance() {
    local table=$target/conformance.txt
    # Without what was not run.
    sed -n '/^promise  /,/^test result/p' "$1" | awk -F '  +' '
        /^(test result|=== |\[)/ { next }
        /^promise  / { inside = 1 }
        inside && NF > 2 { rows++; for (i = 1; i <= NF; i++) { cell[rows, i] = $i; if (rows > 1 && $i != "not run") keep[i] = 1; if (NF > most) most = NF }; next }
        { rest = rest $0 "\n" }
        END {
            for (i = 1; i <= most; i++) for (r = 1; r <= rows; r++) if (length(cell[r, i]) > width[i]) width[i] = length(cell[r, i])
            for (r = 1; r <= rows; r++) {
                line = ""
                for (i = 1; i <= most; i++) if (keep[i]) line = line sprintf("%-" width[i] "s  ", cell[r, i])
                sub(/ +$/, "", line)
                print line
            }
            printf "%s", rest
        }' >"$table"
    cat "$table"
    grep -E '^test result' "$1" || true
    head -n 1 "$table" | grep -qE ' kvm( |$)' || die "KVM is not in the table"
    head -n 1 "$table" | grep -qF -- '-on-kvm' || die "no fake on KVM is in the table"
    ! grep -qF BROKEN "$table" || die "a promise is broken"
    grep -qE '^test result: ok' "$1" || die "the conformance suite failed, see $1"
}

# emulated_conformance: what runs on KVM. Interpreted guests are the same everywhere.
emulated_conformance() {
    local root=$target/conformance-root path
    build_suite -p conformance --test suite
    path=$(awk -F'\t' '$2 == "suite" { print $4 }' "$target/executables")
    machine_root "$root"
    "$cross_strip" -o "$root/bin/suite" "$path"
    echo 'suite kvm:: --color never 2>&1' >>"$root/init"
    run_machine "$root" conformance 1200 2048
    judge_conformance "$target/conformance.log"
}

# native_conformance: all of it, on this machine.
native_conformance() {
    local log=$target/conformance.log
    ARM64_RIG_KVM=required cargo test --locked -p conformance --test suite -- --color never 2>&1 | tee "$log" >/dev/null || true
    judge_conformance "$log"
}
