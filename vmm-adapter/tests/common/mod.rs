//! What several tests need.
#![allow(dead_code, reason = "no test needs all of it")]

use std::path::PathBuf;

/// A reader of flattened devicetrees, for looking at what was written. It trusts its input.
pub struct Tree(Vec<(String, Vec<u8>)>);

impl Tree {
    pub fn read(blob: &[u8]) -> Self {
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4) as usize), (0xd00d_feed, blob.len()));
        let (mut at, strings) = (word(8) as usize, word(12) as usize);
        let text = |at: usize| {
            let end = blob[at..].iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(blob[at..at + end].to_vec()).unwrap()
        };
        let mut path: Vec<String> = Vec::new();
        let mut properties = Vec::new();
        loop {
            let token = word(at);
            at += 4;
            match token {
                1 => {
                    let name = text(at);
                    at += (name.len() + 4) & !3;
                    path.push(name);
                    properties.push((path.join("/"), Vec::new()));
                }
                2 => drop(path.pop()),
                3 => {
                    let (len, name) = (word(at) as usize, text(strings + word(at + 4) as usize));
                    properties
                        .push((format!("{}:{name}", path.join("/")), blob[at + 8..at + 8 + len].to_vec()));
                    at += (8 + len + 3) & !3;
                }
                9 => return Self(properties),
                other => panic!("token {other}"),
            }
        }
    }

    /// Whether there is such a node (`/a/b`; the root is empty) or property (`/a/b:name`).
    pub fn has(&self, path: &str) -> bool {
        self.0.iter().any(|(found, _)| found == path)
    }

    pub fn bytes(&self, property: &str) -> &[u8] {
        let mut all = self.0.iter().filter(|(found, _)| found == property);
        let first = all.next().unwrap_or_else(|| panic!("no {property}"));
        assert!(all.next().is_none(), "{property} is there twice");
        &first.1
    }

    pub fn cells(&self, property: &str) -> Vec<u32> {
        self.bytes(property).chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
    }

    pub fn texts(&self, property: &str) -> Vec<String> {
        let text = String::from_utf8(self.bytes(property).to_vec()).unwrap();
        text.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
    }

    /// The names of the nodes below `path`.
    pub fn children(&self, path: &str) -> Vec<&str> {
        let below =
            |found: &'_ String| found.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')).is_some();
        let nodes =
            self.0.iter().map(|(found, _)| found).filter(|found| !found.contains(':') && below(found));
        nodes.map(|found| &found[path.len() + 1..]).filter(|name| !name.contains('/')).collect()
    }
}

/// An example's binary. `cargo test` builds it beside this test; its name in capitals, MICROVM for example, names another.
pub fn example(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(name.to_uppercase()) {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    let built = match std::fs::metadata(&path) {
        Ok(found) => found.modified().unwrap(),
        Err(error) => panic!("{}: {error}; build it: cargo build -p vmm-adapter --examples", path.display()),
    };
    // cargo's own list of what it was built from, blanks escaped. Where only programs were copied to, there is none.
    let Ok(list) = std::fs::read_to_string(path.with_extension("d")) else { return path };
    let sources = list.split_once(": ").unwrap().1.trim().replace("\\ ", "\0");
    let times = sources
        .split(' ')
        .map(|source| std::fs::metadata(source.replace('\0', " ")).unwrap().modified().unwrap());
    let newest = times.max().unwrap();
    assert!(
        built >= newest,
        "{} is older than its source: cargo build -p vmm-adapter --examples",
        path.display()
    );
    path
}
