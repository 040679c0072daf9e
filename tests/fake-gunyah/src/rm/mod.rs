//! The Resource Manager's rules: the guest's devicetree, and what it makes of it.
