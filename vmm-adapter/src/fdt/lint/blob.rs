//! Reading a devicetree blob that nobody vouches for.

use std::collections::BTreeMap;
use std::fmt;

/// How deep nodes may stand in each other. Kernels give up earlier.
const MAX_DEPTH: usize = 64;
/// How many nodes and properties a tree may have, so that a hostile one costs little. A large guest has a few thousand.
const MAX_ITEMS: usize = 20_000;
/// How long the name of a node or a property may be. The specification has 31 bytes, and kernels do not insist.
const MAX_NAME: usize = 255;
/// How many bytes the paths of all nodes may have together: each repeats the names above it.
const MAX_PATHS: usize = 4 << 20;

const HEADER: usize = 40;
const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why a blob is no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BlobError {
    /// It does not begin as one.
    NotATree,
    /// It says that it is longer than what is there.
    Truncated { says: usize, has: usize },
    /// Something in it is wrong.
    Malformed(String),
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATree => f.write_str("the bytes do not begin with a devicetree's header"),
            Self::Truncated { says, has } => {
                write!(f, "the header says {says} bytes, and {has} are there")
            }
            Self::Malformed(what) => f.write_str(what),
        }
    }
}

fn malformed<T>(what: impl Into<String>) -> Result<T, BlobError> {
    Err(BlobError::Malformed(what.into()))
}

/// A node and what it holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) properties: Vec<(String, Vec<u8>)>,
    pub(super) children: Vec<Node>,
}

/// A whole tree.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) root: Node,
    /// Bytes from the header to the end of the last block.
    pub(super) used: usize,
}

/// Big-endian words at places that may lie outside.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn word(self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn range(self, at: usize, len: usize) -> Option<Bytes<'a>> {
        self.0.get(at..at.checked_add(len)?).map(Bytes)
    }

    /// The name that ends at the next zero byte; `None` when it is none, or longer than names are.
    fn name(self, at: usize) -> Option<&'a str> {
        let rest = self.0.get(at..)?;
        let end = rest.iter().take(MAX_NAME + 1).position(|byte| *byte == 0)?;
        std::str::from_utf8(rest.get(..end)?).ok()
    }
}

fn size(word: Option<u32>) -> usize {
    word.and_then(|word| usize::try_from(word).ok()).unwrap_or(usize::MAX)
}

/// Reads the tree at the start of `buffer`.
pub(super) fn parse(buffer: &[u8]) -> Result<Tree, BlobError> {
    let bytes = Bytes(buffer);
    if bytes.word(0) != Some(MAGIC) || buffer.len() < HEADER {
        return Err(BlobError::NotATree);
    }
    let total = size(bytes.word(4));
    let blob = match bytes.range(0, total) {
        Some(blob) if total >= HEADER => blob,
        Some(_) => return malformed(format!("a tree of {total} bytes is shorter than its header")),
        None => return Err(BlobError::Truncated { says: total, has: buffer.len() }),
    };
    let (version, compatible) = (size(blob.word(20)), size(blob.word(24)));
    if version < 16 || compatible > 17 {
        return malformed(format!(
            "version {version}, compatible with {compatible}: only 16 and 17 are known"
        ));
    }
    let (structure_at, strings_at) = (size(blob.word(8)), size(blob.word(12)));
    let strings_len = size(blob.word(32));
    // Version 16 does not say how long the structure is.
    let structure_len = if version > 16 { size(blob.word(36)) } else { total.saturating_sub(structure_at) };
    let Some(structure) = blob.range(structure_at, structure_len).filter(|_| structure_at % 4 == 0) else {
        return malformed("the structure block lies outside the tree");
    };
    let Some(strings) = blob.range(strings_at, strings_len) else {
        return malformed("the strings block lies outside the tree");
    };
    let used = (structure_at + structure_len).max(strings_at + strings_len).max(HEADER);
    let root = Reader { structure, strings, at: 0, items: 0, paths: 0 }.root()?;
    Ok(Tree { root, used })
}

struct Reader<'a> {
    structure: Bytes<'a>,
    strings: Bytes<'a>,
    at: usize,
    items: usize,
    paths: usize,
}

impl Reader<'_> {
    fn token(&mut self) -> Result<u32, BlobError> {
        loop {
            let token = self.structure.word(self.at);
            self.at = self.at.saturating_add(4);
            match token {
                Some(NOP) => {}
                Some(token) => return Ok(token),
                None => return malformed("the structure block ends in the middle"),
            }
        }
    }

    fn count(&mut self) -> Result<(), BlobError> {
        self.items = self.items.saturating_add(1);
        if self.items > MAX_ITEMS {
            return malformed(format!("more than {MAX_ITEMS} nodes and properties"));
        }
        Ok(())
    }

    fn name(&mut self, parent: &Node) -> Result<Node, BlobError> {
        self.count()?;
        let Some(name) = self.structure.name(self.at) else {
            return malformed(format!(
                "a node below {} has a name that is no text of at most {MAX_NAME} bytes",
                parent.path
            ));
        };
        self.at = self.at.saturating_add(name.len() + 1).next_multiple_of(4);
        self.paths = self.paths.saturating_add(parent.path.len()).saturating_add(name.len() + 1);
        if self.paths > MAX_PATHS {
            return malformed(format!("the paths of its nodes have more than {MAX_PATHS} bytes"));
        }
        let path = if parent.path == "/" { format!("/{name}") } else { format!("{}/{name}", parent.path) };
        Ok(Node { path, name: name.to_owned(), ..Node::default() })
    }

    fn property(&mut self, node: &mut Node) -> Result<(), BlobError> {
        self.count()?;
        let (len, name_at) = (size(self.structure.word(self.at)), size(self.structure.word(self.at + 4)));
        let Some(name) = self.strings.name(name_at) else {
            return malformed(format!(
                "a property of {} has a name that is no text of at most {MAX_NAME} bytes",
                node.path
            ));
        };
        let Some(value) = self.structure.range(self.at + 8, len) else {
            return malformed(format!("{} of {} does not end inside the tree", name, node.path));
        };
        node.properties.push((name.to_owned(), value.0.to_vec()));
        self.at = self.at.saturating_add(8).saturating_add(len).next_multiple_of(4);
        Ok(())
    }

    fn root(mut self) -> Result<Node, BlobError> {
        if self.token()? != BEGIN_NODE {
            return malformed("the structure block does not begin with a node");
        }
        let root = self.name(&Node { path: "/".to_owned(), ..Node::default() })?;
        // The nodes that are open, from the root on.
        let mut open = vec![Node { path: "/".to_owned(), ..root }];
        loop {
            match self.token()? {
                BEGIN_NODE => {
                    let Some(parent) = open.last() else { break };
                    let node = self.name(parent)?;
                    if open.len() >= MAX_DEPTH {
                        return malformed(format!("{} stands more than {MAX_DEPTH} nodes deep", node.path));
                    }
                    open.push(node);
                }
                PROPERTY => {
                    let Some(mut node) = open.pop() else { break };
                    self.property(&mut node)?;
                    open.push(node);
                }
                END_NODE => {
                    let Some(done) = open.pop() else { break };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(done),
                        None => {
                            if self.token()? != END {
                                return malformed("something follows the root node");
                            }
                            return Ok(done);
                        }
                    }
                }
                END => return malformed("the tree ends inside a node"),
                other => return malformed(format!("{other:#x} is no token of a structure block")),
            }
        }
        malformed("the tree has no root")
    }
}

impl Node {
    /// A property's bytes.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(have, _)| have == name).map(|(_, value)| &value[..])
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A property that is one cell.
    pub(super) fn cell(&self, name: &str) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(name)?.try_into().ok()?))
    }

    /// A property of one or two cells, as a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)?.len() {
            4 => self.cell(name).map(u64::from),
            8 => Some(u64::from_be_bytes(self.get(name)?.try_into().ok()?)),
            _ => None,
        }
    }

    /// A property's cells; `None` when it is no whole number of them.
    pub(super) fn cells(&self, name: &str) -> Option<Vec<u32>> {
        let value = self.get(name)?;
        let cells = value.chunks_exact(4);
        if !cells.remainder().is_empty() {
            return None;
        }
        cells.map(|cell| Some(u32::from_be_bytes(cell.try_into().ok()?))).collect()
    }

    /// The strings of a property.
    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        let value = self.get(name).unwrap_or_default();
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        value.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok()).collect()
    }

    /// A property that is one string, with its end, and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let text = std::str::from_utf8(self.get(name)?.strip_suffix(&[0])?).ok()?;
        (!text.is_empty() && !text.contains('\0')).then_some(text)
    }

    pub(super) fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Whether a `compatible` string is among these.
    pub(super) fn is_compatible(&self, names: &[&str]) -> bool {
        self.texts("compatible").iter().any(|name| names.contains(name))
    }

    /// The node itself and all below it, each before what stands below it.
    pub(super) fn all(&self) -> Vec<&Node> {
        let mut found = Vec::new();
        let mut open = vec![self];
        while let Some(node) = open.pop() {
            found.push(node);
            open.extend(node.children.iter().rev());
        }
        found
    }
}

impl Tree {
    /// The node at a path, such as `/cpus`.
    pub(super) fn at(&self, path: &str) -> Option<&Node> {
        let names = path.strip_prefix('/')?.split('/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(&self.root, |node, name| node.child(name))
    }

    /// All phandles, each with the first node that has it.
    pub(super) fn phandles(&self) -> BTreeMap<u32, &Node> {
        let mut found = BTreeMap::new();
        for node in self.root.all() {
            for phandle in ["phandle", "linux,phandle"].into_iter().filter_map(|name| node.cell(name)) {
                found.entry(phandle).or_insert(node);
            }
        }
        found
    }

    /// The node with a phandle.
    pub(super) fn phandle(&self, phandle: u32) -> Option<&Node> {
        let is = |node: &&Node| [node.cell("phandle"), node.cell("linux,phandle")].contains(&Some(phandle));
        self.root.all().into_iter().find(is)
    }
}
