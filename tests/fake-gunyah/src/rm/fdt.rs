//! A reader of flattened devicetrees that trusts nothing.
//!
//! The tree comes out of guest memory: every offset and length in it may be a lie. The reader checks the header, walks
//! the structure block once without recursion, and keeps borrowed names and values in an arena. It panics on no
//! input, and its time is linear in the size of the tree.

use super::error::RmError;

/// What the first four bytes of a tree say.
const MAGIC: u32 = 0xd00d_feed;
/// The oldest layout that this reader knows, and the newest that it may be compatible with.
const OLDEST_VERSION: u32 = 16;
const NEWEST_VERSION: u32 = 17;
/// Nobody nests deeper; a limit keeps a hostile tree's paths short.
const MAX_DEPTH: usize = 64;
/// No name of a node or property is longer (31 characters are the standard's limit). Many properties may share one name's
/// bytes, so this also keeps the reading linear.
const MAX_NAME: usize = 255;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// One property: its name and its bytes.
#[derive(Debug)]
struct Property<'a> {
    name: &'a str,
    value: &'a [u8],
}

#[derive(Debug)]
struct NodeData<'a> {
    name: &'a str,
    parent: Option<usize>,
    first_child: Option<usize>,
    last_child: Option<usize>,
    next_sibling: Option<usize>,
    properties: Vec<Property<'a>>,
}

/// A parsed tree. Nodes are in the order in which they stand in the blob; the root is the first.
#[derive(Debug)]
pub(super) struct Fdt<'a> {
    nodes: Vec<NodeData<'a>>,
    used: usize,
    /// The physical id of the CPU that boots, as the header has it.
    boot_cpu: u32,
    /// The memory reservation block: address and size of each.
    reservations: Vec<(u64, u64)>,
}

/// One node of a tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'f> {
    fdt: &'f Fdt<'f>,
    data: &'f NodeData<'f>,
}

/// A damaged tree: what is wrong with it.
fn damaged(why: impl std::fmt::Display) -> RmError {
    RmError::missing(format!("the devicetree is damaged: {why}"))
}

/// The big-endian word at `offset`.
fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    let word: [u8; 4] = bytes.get(offset..end)?.try_into().ok()?;
    Some(u32::from_be_bytes(word))
}

/// The NUL-terminated UTF-8 name at `offset`, without its NUL.
fn name_at(bytes: &[u8], offset: usize) -> Option<&str> {
    let rest = bytes.get(offset..)?;
    let end = rest.iter().take(MAX_NAME + 1).position(|&byte| byte == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

/// The blocks of a tree, as its header gives them, all inside the blob.
struct Blocks<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    used: usize,
    boot_cpu: u32,
    reservations: Vec<(u64, u64)>,
}

impl<'a> Blocks<'a> {
    fn read(blob: &'a [u8]) -> Result<Self, RmError> {
        let field = |index: usize, name: &str| -> Result<u32, RmError> {
            word(blob, index * 4)
                .ok_or_else(|| damaged(format!("{} bytes end before the header's {name}", blob.len())))
        };
        let size = |index: usize, name: &str| -> Result<usize, RmError> {
            usize::try_from(field(index, name)?).map_err(|_| damaged(format!("{name} is too large")))
        };
        let magic = field(0, "magic")?;
        if magic != MAGIC {
            return Err(RmError::missing(format!(
                "no devicetree: it begins with {magic:#010x}, not {MAGIC:#010x}"
            )));
        }
        let version = field(5, "version")?;
        let compatible = field(6, "last compatible version")?;
        if version < OLDEST_VERSION || compatible > NEWEST_VERSION {
            return Err(damaged(format!("version {version}, compatible down to {compatible}, is not known")));
        }
        let total = size(1, "total size")?;
        let blob = blob
            .get(..total)
            .ok_or_else(|| damaged(format!("it says {total} bytes, the buffer has {}", blob.len())))?;
        let struct_at = size(2, "structure offset")?;
        let strings_at = size(3, "strings offset")?;
        let strings_len = size(8, "strings size")?;
        // Layout 16 has no size for the structure block: it ends with its own end mark.
        let struct_len = match version {
            OLDEST_VERSION => total.saturating_sub(struct_at),
            _ => size(9, "structure size")?,
        };
        let block = |at: usize, len: usize, name: &str| {
            at.checked_add(len)
                .and_then(|end| blob.get(at..end))
                .ok_or_else(|| damaged(format!("the {name} block does not fit into its {total} bytes")))
        };
        if struct_at % 4 != 0 {
            return Err(damaged("the structure block is not aligned to 4 bytes"));
        }
        let structure = block(struct_at, struct_len, "structure")?;
        let strings = block(strings_at, strings_len, "strings")?;
        let used = struct_at.saturating_add(struct_len).max(strings_at.saturating_add(strings_len));
        let boot_cpu = field(7, "boot CPU")?;
        let reservations = reservations(blob.get(size(4, "reservations offset")?..).unwrap_or_default());
        Ok(Self { structure, strings, used, boot_cpu, reservations })
    }
}

/// The entries of a memory reservation block, up to its end mark or the end of the bytes.
fn reservations(block: &[u8]) -> Vec<(u64, u64)> {
    let mut numbers = block.chunks_exact(8).map(|bytes| bytes.try_into().map_or(0, u64::from_be_bytes));
    std::iter::from_fn(|| Some((numbers.next()?, numbers.next()?)))
        .take_while(|entry| *entry != (0, 0))
        .collect()
}

impl<'a> Fdt<'a> {
    /// Reads the tree at the start of `blob`. `blob` may be longer than the tree.
    pub(super) fn parse(blob: &'a [u8]) -> Result<Self, RmError> {
        let Blocks { structure, strings, used, boot_cpu, reservations } = Blocks::read(blob)?;
        let mut nodes: Vec<NodeData<'a>> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut at = 0_usize;
        loop {
            let token = word(structure, at).ok_or_else(|| damaged("the structure block has no end mark"))?;
            at += 4;
            match token {
                NOP => {}
                BEGIN_NODE => {
                    let name = name_at(structure, at)
                        .ok_or_else(|| damaged("a node's name is no text or too long"))?;
                    at = at.saturating_add(name.len() + 1).next_multiple_of(4);
                    if open.len() >= MAX_DEPTH {
                        return Err(damaged(format!("nodes are nested deeper than {MAX_DEPTH}")));
                    }
                    if open.is_empty() && !nodes.is_empty() {
                        return Err(damaged("there is more than one root"));
                    }
                    let index = nodes.len();
                    let parent = open.last().copied();
                    nodes.push(NodeData {
                        name,
                        parent,
                        first_child: None,
                        last_child: None,
                        next_sibling: None,
                        properties: Vec::new(),
                    });
                    link(&mut nodes, parent, index);
                    open.push(index);
                }
                END_NODE => {
                    open.pop().ok_or_else(|| damaged("a node ends that was not begun"))?;
                }
                PROP => {
                    let (property, next) = property(structure, strings, at)?;
                    at = next;
                    open.last()
                        .and_then(|&index| nodes.get_mut(index))
                        .ok_or_else(|| damaged("a property stands outside of every node"))?
                        .properties
                        .push(property);
                }
                END if !open.is_empty() => return Err(damaged("it ends inside a node")),
                END if nodes.is_empty() => return Err(damaged("it has no root")),
                END => return Ok(Self { nodes, used, boot_cpu, reservations }),
                other => return Err(damaged(format!("{other:#x} is no token of the structure block"))),
            }
        }
    }

    /// The physical id of the CPU that boots, as the header has it.
    pub(super) fn boot_cpu(&self) -> u32 {
        self.boot_cpu
    }

    /// The memory reservation block: address and size of each entry.
    pub(super) fn reservations(&self) -> &[(u64, u64)] {
        &self.reservations
    }

    /// How many bytes from the start of the blob hold something.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    fn node(&self, index: usize) -> Option<Node<'_>> {
        Some(Node { fdt: self, data: self.nodes.get(index)? })
    }

    /// The root. A parsed tree has one.
    pub(super) fn root(&self) -> Option<Node<'_>> {
        self.node(0)
    }

    /// Every node, parents before their children.
    pub(super) fn all(&self) -> impl Iterator<Item = Node<'_>> {
        (0..self.nodes.len()).filter_map(|index| self.node(index))
    }

    /// The node at an absolute path. A component without a unit address finds the first node of that base name.
    pub(super) fn at_path(&self, path: &str) -> Option<Node<'_>> {
        let components = path.strip_prefix('/')?.split('/').filter(|part| !part.is_empty());
        let mut node = self.root()?;
        for part in components {
            node = node.child(part).or_else(|| node.children().find(|child| child.base_name() == part))?;
        }
        Some(node)
    }

    /// The node with this phandle.
    pub(super) fn by_phandle(&self, phandle: u32) -> Option<Node<'_>> {
        self.all()
            .find(|node| ["phandle", "linux,phandle"].iter().any(|&name| node.word(name) == Some(phandle)))
    }
}

/// Appends `index` to the children of `parent`.
fn link(nodes: &mut [NodeData<'_>], parent: Option<usize>, index: usize) {
    let Some(parent) = parent.and_then(|parent| nodes.get_mut(parent)) else { return };
    let before = parent.last_child.replace(index);
    match before {
        None => parent.first_child = Some(index),
        Some(before) => {
            if let Some(before) = nodes.get_mut(before) {
                before.next_sibling = Some(index);
            }
        }
    }
}

/// The property whose length word stands at `at`, and where the next token is.
fn property<'a>(structure: &'a [u8], strings: &'a [u8], at: usize) -> Result<(Property<'a>, usize), RmError> {
    let cut_off = || damaged("a property is cut off");
    let to_usize = |word: u32| usize::try_from(word).ok();
    let len = word(structure, at).and_then(to_usize).ok_or_else(cut_off)?;
    let name_offset = word(structure, at.saturating_add(4)).and_then(to_usize).ok_or_else(cut_off)?;
    let start = at.saturating_add(8);
    let end = start.checked_add(len).ok_or_else(cut_off)?;
    let value = structure.get(start..end).ok_or_else(cut_off)?;
    let name = name_at(strings, name_offset)
        .ok_or_else(|| damaged("a property's name is not in the strings block"))?;
    let next = end.checked_next_multiple_of(4).ok_or_else(cut_off)?;
    Ok((Property { name, value }, next))
}

impl<'f> Node<'f> {
    /// The node's name with its unit address; empty for the root.
    pub(super) fn name(&self) -> &'f str {
        self.data.name
    }

    /// The node's name without its unit address.
    pub(super) fn base_name(&self) -> &'f str {
        self.data.name.split('@').next().unwrap_or_default()
    }

    /// The node's path, for messages.
    pub(super) fn path(&self) -> String {
        let mut names = Vec::new();
        let mut node = Some(*self);
        while let Some(here) = node {
            names.push(here.name());
            node = here.data.parent.and_then(|parent| self.fdt.node(parent));
        }
        names.reverse();
        if names.len() == 1 { "/".to_owned() } else { names.join("/") }
    }

    /// The node that it stands in; none for the root.
    pub(super) fn parent(&self) -> Option<Node<'f>> {
        self.fdt.node(self.data.parent?)
    }

    /// The children, in order.
    pub(super) fn children(&self) -> impl Iterator<Item = Node<'f>> + use<'f> {
        let fdt = self.fdt;
        let mut next = self.data.first_child;
        std::iter::from_fn(move || {
            let node = fdt.node(next?)?;
            next = node.data.next_sibling;
            Some(node)
        })
    }

    /// The first child of exactly this name.
    pub(super) fn child(&self, name: &str) -> Option<Node<'f>> {
        self.children().find(|child| child.name() == name)
    }

    /// A property's bytes; empty for a flag.
    pub(super) fn bytes(&self, name: &str) -> Option<&'f [u8]> {
        self.data.properties.iter().find(|property| property.name == name).map(|property| property.value)
    }

    /// The properties, in order.
    pub(super) fn properties(&self) -> impl Iterator<Item = (&'f str, &'f [u8])> + use<'f> {
        self.data.properties.iter().map(|property| (property.name, property.value))
    }

    /// Whether the property is there, whatever its value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some()
    }

    /// A property of exactly one word.
    pub(super) fn word(&self, name: &str) -> Option<u32> {
        self.bytes(name)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// The texts of a string list; none when the value is no list of NUL-terminated texts.
    pub(super) fn texts(&self, name: &str) -> impl Iterator<Item = &'f str> + use<'f> {
        let whole = self.bytes(name).and_then(|value| std::str::from_utf8(value).ok()?.strip_suffix('\0'));
        whole.into_iter().flat_map(|whole| whole.split('\0'))
    }

    /// A property that is one non-empty text.
    pub(super) fn text(&self, name: &str) -> Option<&'f str> {
        let mut texts = self.texts(name);
        let first = texts.next().filter(|text| !text.is_empty())?;
        if texts.next().is_some() { None } else { Some(first) }
    }
}
