//! A devicetree that tests can change.
#![allow(dead_code, unreachable_pub)]

use vm_fdt::FdtWriter;

#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub properties: Vec<(String, Vec<u8>)>,
    pub children: Vec<Node>,
}

pub fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

pub fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

pub fn number(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

pub fn empty() -> Vec<u8> {
    Vec::new()
}

impl Node {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), properties: Vec::new(), children: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: Vec<u8>) -> Self {
        self.set(name, value);
        self
    }

    pub fn add(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }

    pub fn set(&mut self, name: &str, value: Vec<u8>) {
        self.unset(name);
        self.properties.push((name.to_owned(), value));
    }

    pub fn unset(&mut self, name: &str) {
        self.properties.retain(|(have, _)| have != name);
    }

    /// The node at a path below this one.
    pub fn at(&mut self, path: &str) -> &mut Node {
        path.split('/').fold(self, |node, name| {
            node.children.iter_mut().find(|child| child.name == name).unwrap_or_else(|| panic!("no {name}"))
        })
    }

    pub fn remove(&mut self, path: &str) {
        let (parent, name) = match path.rsplit_once('/') {
            Some((parent, name)) => (self.at(parent), name),
            None => (self, path),
        };
        parent.children.retain(|child| child.name != name);
    }

    pub fn blob(&self) -> Vec<u8> {
        let mut writer = FdtWriter::new().unwrap();
        self.write(&mut writer);
        writer.finish().unwrap()
    }

    fn write(&self, writer: &mut FdtWriter) {
        let node = writer.begin_node(&self.name).unwrap();
        for (name, value) in &self.properties {
            writer.property(name, value).unwrap();
        }
        for child in &self.children {
            child.write(writer);
        }
        writer.end_node(node).unwrap();
    }
}
