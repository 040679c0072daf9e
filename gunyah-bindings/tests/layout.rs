//! Sizes, alignments and offsets against the hand-written table.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]
#![expect(unsafe_code, reason = "the table takes addresses of union members")]

mod table;

#[test]
fn structs_are_laid_out_as_kernels_have_them() {
    let mut wrong = Vec::new();
    for s in table::structs() {
        if s.rust != s.wanted {
            wrong.push(format!("{}::{}: {:?}, wanted {:?}", s.module, s.name, s.rust, s.wanted));
        }
        for f in &s.fields {
            if f.rust != f.wanted {
                wrong.push(format!(
                    "{}::{}.{}: {:?}, wanted {:?}",
                    s.module, s.name, f.path, f.rust, f.wanted
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "(size, alignment) or (offset, size) differ:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_leaves_no_gap_unseen() {
    // Members lie in order and inside their struct, so a row with a wrong offset and size cannot go by.
    for s in table::structs() {
        let mut end = 0;
        for f in s.fields.iter().filter(|f| !f.path.contains('.')) {
            let (offset, size) = f.wanted;
            let in_union = s.name.ends_with("_vcpu_run") && offset == 16;
            assert!(in_union || offset >= end, "{}::{}.{} overlaps", s.module, s.name, f.path);
            end = end.max(offset + size);
        }
        let (size, align) = s.wanted;
        assert_eq!(end.next_multiple_of(align), size, "{}::{}: members end at {end}", s.module, s.name);
    }
}

#[test]
fn defaults_are_zeros() {
    use gunyah_bindings::{android, v11, v17};

    let run = v11::gh_vcpu_run::default();
    assert_eq!((run.immediate_exit, run.padding, run.exit_reason), (0, [0; 7], 0));
    // SAFETY: `Default` writes the MMIO member, and every bit pattern is one of it.
    assert_eq!(unsafe { run.__bindgen_anon_1.mmio }, v11::gh_vcpu_run_mmio::default());
    let run = android::gunyah_vcpu_run::default();
    // SAFETY: as above.
    assert_eq!(unsafe { run.__bindgen_anon_1.mmio }, android::gunyah_vcpu_run_mmio::default());
    let run = v17::gunyah_vcpu_run::default();
    // SAFETY: as above.
    assert_eq!(unsafe { run.__bindgen_anon_1.mmio }, v17::gunyah_vcpu_run_mmio::default());

    assert_eq!(android::gunyah_map_flags::default().0, 0);
    assert_eq!(v17::gunyah_map_mem_args::default().flags, v17::gunyah_map_flags::GUNYAH_MEM_DEFAULT_ACCESS);
    assert_eq!(v11::gh_vcpu_run_status::default().status.0, 0);
}

#[test]
fn a_run_page_prints_what_can_be_said() {
    use gunyah_bindings::v11::{GH_VCPU_EXIT_MMIO, gh_vcpu_run};

    let run = gh_vcpu_run { exit_reason: GH_VCPU_EXIT_MMIO, ..Default::default() };
    assert_eq!(format!("{run:?}"), "gh_vcpu_run { immediate_exit: 0, exit_reason: 1, .. }");
    assert_eq!(format!("{:?}", run.__bindgen_anon_1), "gh_vcpu_run_exit { .. }");
}

#[test]
fn a_number_that_no_kernel_documents_is_a_value_like_any_other() {
    use gunyah_bindings::v11::gh_vm_status;

    let status = gh_vm_status(9);
    assert_ne!(status, gh_vm_status::GH_VM_STATUS_CRASHED);
    assert_eq!(format!("{status:?}"), "gh_vm_status(9)");
}
