//! The Resource Manager's reading of a guest's devicetree: any bytes, and any change to a good tree.
#![no_main]

use fake_gunyah::rm::{Parcel, Range, check_parcels, read_vm_config, write_overlay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match read_vm_config(input) {
        Ok(mut description) => {
            assert!(description.vcpus > 0, "a VM without a CPU");
            assert_eq!(read_vm_config(input).as_ref(), Ok(&description));
            // What stands behind the tree is slack. The warnings tell how much there is.
            let mut more = input.to_vec();
            more.extend([0; 64]);
            let image = Parcel {
                label: Some(u32::from(input.len() % 2 == 1)),
                range: Range { address: 0x8000_0000, size: 0x20_0000 },
                lent: true,
                image: true,
            };
            let _ = check_parcels(&description, &[image], false);
            let mut room = input.to_vec();
            room.extend([0; 4096]);
            if let Ok(tree) = write_overlay(&room, &description, &[image], Some(1 << 14)) {
                // A tree again, with the node that it must not have had.
                assert!(read_vm_config(&tree).unwrap_err().why.contains("/hypervisor"));
            }
            let mut with_slack = read_vm_config(&more).unwrap();
            description.warnings.clear();
            with_slack.warnings.clear();
            assert_eq!(with_slack, description);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
