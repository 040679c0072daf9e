//! A devicetree that a test can change one property at a time, and a writer for it.
//!
//! The writer is the test's own: it also writes what a good writer refuses to.

/// A node with its properties and children, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) name: String,
    pub(crate) properties: Vec<(String, Vec<u8>)>,
    pub(crate) children: Vec<Tree>,
}

/// The bytes of a string property.
pub(crate) fn text(value: &str) -> Vec<u8> {
    format!("{value}\0").into_bytes()
}

/// The bytes of a property of words.
pub(crate) fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The bytes of a property of one 64-bit number.
pub(crate) fn wide(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

impl Tree {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: Vec<u8>) -> Self {
        self.properties.push((name.to_owned(), value));
        self
    }

    pub(crate) fn flag(self, name: &str) -> Self {
        self.with(name, Vec::new())
    }

    pub(crate) fn child(mut self, child: Tree) -> Self {
        self.children.push(child);
        self
    }

    /// The node at a path such as `gunyah-vm-config/memory`; the empty path is the node itself.
    pub(crate) fn at(&mut self, path: &str) -> &mut Tree {
        path.split('/').filter(|part| !part.is_empty()).fold(self, |node, part| {
            node.children.iter_mut().find(|child| child.name == part).unwrap_or_else(|| panic!("no {part}"))
        })
    }

    /// Removes the node at the path. It must be there, so that a test cannot remove nothing.
    pub(crate) fn remove(&mut self, path: &str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let children = &mut self.at(parent).children;
        let before = children.len();
        children.retain(|child| child.name != name);
        assert_eq!(children.len() + 1, before, "{path} is not in the tree");
    }

    /// Removes a property, which must be there.
    pub(crate) fn unset(&mut self, path: &str, name: &str) {
        let properties = &mut self.at(path).properties;
        let before = properties.len();
        properties.retain(|(other, _)| other != name);
        assert_eq!(properties.len() + 1, before, "{path} has no {name}");
    }

    /// Sets a property, new or not.
    pub(crate) fn set(&mut self, path: &str, name: &str, value: Vec<u8>) {
        let properties = &mut self.at(path).properties;
        properties.retain(|(other, _)| other != name);
        properties.push((name.to_owned(), value));
    }

    /// The tree in a blob, which is trusted.
    pub(crate) fn read(blob: &[u8]) -> Self {
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap());
        let name = |at: usize| {
            std::ffi::CStr::from_bytes_until_nul(&blob[at..]).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(word(0), 0xd00d_feed);
        assert!(word(4) as usize <= blob.len());
        let (mut at, strings) = (word(8) as usize, word(12) as usize);
        let mut open = vec![Self::default()];
        loop {
            let token = word(at);
            at += 4;
            match token {
                1 => {
                    let node = Self::new(&name(at));
                    at = (at + node.name.len() + 1).next_multiple_of(4);
                    open.push(node);
                }
                2 => {
                    let node = open.pop().unwrap();
                    open.last_mut().unwrap().children.push(node);
                }
                3 => {
                    let (len, key) = (word(at) as usize, word(at + 4) as usize);
                    let value = blob[at + 8..at + 8 + len].to_vec();
                    open.last_mut().unwrap().properties.push((name(strings + key), value));
                    at = (at + 8 + len).next_multiple_of(4);
                }
                9 => return open.pop().unwrap().children.pop().unwrap(),
                other => panic!("token {other:#x}"),
            }
        }
    }

    /// The tree as a blob of layout 17.
    pub(crate) fn blob(&self) -> Vec<u8> {
        let mut structure = Vec::new();
        let mut strings = Vec::new();
        self.write(&mut structure, &mut strings);
        structure.extend(9_u32.to_be_bytes());
        blob(&structure, &strings)
    }

    /// The blob, followed by room for an overlay.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.blob();
        buffer.extend([0; 8192]);
        buffer
    }

    fn write(&self, structure: &mut Vec<u8>, strings: &mut Vec<u8>) {
        structure.extend(1_u32.to_be_bytes());
        structure.extend(text(&self.name));
        pad(structure);
        for (name, value) in &self.properties {
            let wanted = text(name);
            let at = strings.windows(wanted.len()).position(|known| known == wanted).unwrap_or(strings.len());
            if at == strings.len() {
                strings.extend(wanted);
            }
            structure.extend(words(&[3, value.len() as u32, at as u32]));
            structure.extend(value);
            pad(structure);
        }
        for child in &self.children {
            child.write(structure, strings);
        }
        structure.extend(2_u32.to_be_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A blob of layout 17 around a structure and a strings block.
pub(crate) fn blob(structure: &[u8], strings: &[u8]) -> Vec<u8> {
    let (reserved, at) = (40_usize, 56_usize);
    let strings_at = at + structure.len();
    let total = strings_at + strings.len();
    let header = [
        0xd00d_feed,
        total as u32,
        at as u32,
        strings_at as u32,
        reserved as u32,
        17,
        16,
        0,
        strings.len() as u32,
        structure.len() as u32,
    ];
    let mut blob = words(&header);
    blob.extend([0; 16]);
    blob.extend(structure);
    blob.extend(strings);
    blob
}

/// A tree as a good VMM writes it: two vCPUs, doorbells 0 (edge) and 33 (level), one shared parcel.
pub(crate) fn good() -> Tree {
    let cpu = |n: u32| {
        Tree::new(&format!("cpu@{n}"))
            .with("device_type", text("cpu"))
            .with("compatible", text("arm,armv8"))
            .with("reg", words(&[n]))
            .with("enable-method", text("psci"))
    };
    let bell = |label: u32, spi: u32, trigger: u32| {
        Tree::new(&format!("bell-{label:x}"))
            .with("vdevice-type", text("doorbell"))
            .with("generate", text(&format!("/hypervisor/bell-{label:x}")))
            .with("label", words(&[label]))
            .flag("peer-default")
            .flag("source-can-clear")
            .with("interrupts", words(&[0, spi, trigger]))
    };
    let shm = Tree::new("shm-5")
        .with("vdevice-type", text("shm"))
        .flag("peer-default")
        .with("dma_base", wide(0))
        .child(Tree::new("memory").with("label", words(&[5])).with("base", wide(0x9000_0000)));
    let config = Tree::new("gunyah-vm-config")
        .with("image-name", text("a-vm"))
        .with("os-type", text("linux"))
        .child(
            Tree::new("memory")
                .with("#address-cells", words(&[2]))
                .with("#size-cells", words(&[2]))
                .with("base-address", wide(0x8000_0000))
                .with("size-min", wide(0x10_0000))
                .with("size-max", wide(0x4000_0000)),
        )
        .child(Tree::new("interrupts").with("config", words(&[1])))
        .child(Tree::new("vcpus").with("affinity", text("proxy")).with("config", text("/cpus")))
        .child(
            Tree::new("vdevices")
                .with("generate", text("/hypervisor"))
                .child(bell(0, 0, 1))
                .child(bell(33, 33, 4))
                .child(shm),
        );
    Tree::new("")
        .with("#address-cells", words(&[2]))
        .with("#size-cells", words(&[2]))
        .with("interrupt-parent", words(&[1]))
        .child(Tree::new("chosen").with("bootargs", text("console=ttyS0")))
        .child(
            Tree::new("memory")
                .with("device_type", text("memory"))
                .with("reg", words(&[0, 0x8000_0000, 0, 0x1000])),
        )
        .child(Tree::new("cpus").with("#address-cells", words(&[1])).child(cpu(0)).child(cpu(1)))
        .child(Tree::new("psci").with("compatible", text("arm,psci-1.0")).with("method", text("hvc")))
        .child(
            Tree::new("intc@3fff0000")
                .with("compatible", text("arm,gic-v3"))
                .with("#interrupt-cells", words(&[3]))
                .flag("interrupt-controller")
                .with("reg", words(&[0, 0x3fff_0000, 0, 0x1_0000, 0, 0x3ffb_0000, 0, 0x4_0000]))
                .with("phandle", words(&[1])),
        )
        .child(Tree::new("timer").with("compatible", text("arm,armv8-timer")))
        .child(config)
}
