//! The Resource Manager's reading of a guest's devicetree: any bytes, and any change to a good tree.
#![no_main]

use fake_gunyah::rm::read_vm_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match read_vm_config(input) {
        Ok(mut description) => {
            assert!(description.vcpus > 0, "a VM without a CPU");
            assert_eq!(read_vm_config(input).as_ref(), Ok(&description));
            // What stands behind the tree is slack. The warnings tell how much there is.
            let mut more = input.to_vec();
            more.extend([0; 64]);
            let mut with_slack = read_vm_config(&more).unwrap();
            description.warnings.clear();
            with_slack.warnings.clear();
            assert_eq!(with_slack, description);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
