//! Which names in an object a schema looks for: a small trie over dotted paths.
//!
//! A path finds nested objects and names that contain the dots alike: `http.method` is found in
//! `{"http":{"method":"GET"}}` and in `{"http.method":"GET"}`.

/// No entry, no slot, no node.
const NONE: u16 = u16::MAX;

/// Steps in a path, at the most: each way to read the dots is an entry.
pub(crate) const MAX_STEPS: usize = 6;

const BUCKETS: usize = 64;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    slot: u16,
    node: u16,
    /// A top-level name that the document takes for itself.
    pub reserved: bool,
}

impl Target {
    pub const NOTHING: Self = Self { slot: NONE, node: NONE, reserved: false };

    /// The number of the field that stands here.
    #[inline]
    pub fn slot(self) -> Option<usize> {
        (self.slot != NONE).then_some(usize::from(self.slot))
    }

    /// Fields stand inside the object here: the names to look for.
    #[inline]
    pub fn node(self) -> Option<usize> {
        (self.node != NONE).then_some(usize::from(self.node))
    }
}

#[derive(Clone, Debug)]
struct Entry {
    name: Box<[u8]>,
    target: Target,
    /// The next entry of the bucket.
    next: u16,
}

#[derive(Clone, Debug)]
struct Node {
    buckets: [u16; BUCKETS],
    entries: Vec<Entry>,
}

/// The names that a schema looks for, by object.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    nodes: Vec<Node>,
}

/// The node of the outermost object.
pub(crate) const ROOT: usize = 0;

#[inline]
fn bucket(name: &[u8]) -> usize {
    let (&first, &last) = (name.first().unwrap_or(&0), name.last().unwrap_or(&0));
    (name.len() * 5 + usize::from(first) * 3 + usize::from(last) * 7) % BUCKETS
}

impl Names {
    pub fn new() -> Self {
        Self { nodes: vec![Node { buckets: [NONE; BUCKETS], entries: Vec::new() }] }
    }

    /// What the schema looks for under `name` in the object of `node`.
    #[inline]
    pub fn find(&self, node: usize, name: &[u8]) -> Option<Target> {
        let node = &self.nodes[node];
        let mut at = node.buckets[bucket(name)];
        while let Some(entry) = node.entries.get(usize::from(at)) {
            if *entry.name == *name {
                return Some(entry.target);
            }
            at = entry.next;
        }
        None
    }

    /// Looks for the field of `slot` at `path`.
    pub fn add_path(&mut self, path: &str, slot: usize) {
        let steps: Vec<&str> = path.split('.').collect();
        self.add_steps(ROOT, &steps, slot);
    }

    fn add_steps(&mut self, node: usize, steps: &[&str], slot: usize) {
        for taken in 1..=steps.len() {
            let name = steps[..taken].join(".");
            if taken == steps.len() {
                self.target(node, &name).slot = slot as u16;
            } else {
                let child = match self.target(node, &name).node() {
                    Some(child) => child,
                    None => {
                        let child = self.nodes.len();
                        self.nodes.push(Node { buckets: [NONE; BUCKETS], entries: Vec::new() });
                        self.target(node, &name).node = child as u16;
                        child
                    }
                };
                self.add_steps(child, &steps[taken..], slot);
            }
        }
    }

    /// Notes that the document takes a top-level name for itself.
    pub fn reserve(&mut self, name: &str) {
        self.target(ROOT, name).reserved = true;
    }

    fn target(&mut self, node: usize, name: &str) -> &mut Target {
        let node = &mut self.nodes[node];
        let at = match node.entries.iter().position(|entry| *entry.name == *name.as_bytes()) {
            Some(at) => at,
            None => {
                let first = &mut node.buckets[bucket(name.as_bytes())];
                node.entries.push(Entry { name: name.as_bytes().into(), target: Target::NOTHING, next: *first });
                *first = (node.entries.len() - 1) as u16;
                node.entries.len() - 1
            }
        };
        &mut node.entries[at].target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_nested_objects_and_dotted_names() {
        let mut names = Names::new();
        names.add_path("a.b.c", 7);
        names.add_path("a", 8);
        let find = |steps: &[&str]| {
            let mut node = ROOT;
            for (i, step) in steps.iter().enumerate() {
                let target = names.find(node, step.as_bytes())?;
                if i + 1 == steps.len() {
                    return target.slot();
                }
                node = target.node()?;
            }
            None
        };
        for steps in [&["a", "b", "c"][..], &["a.b", "c"], &["a", "b.c"], &["a.b.c"]] {
            assert_eq!(find(steps), Some(7), "{steps:?}");
        }
        assert_eq!(find(&["a"]), Some(8));
        assert_eq!(find(&["a", "b"]), None);
        assert_eq!(find(&["c"]), None);
        assert_eq!(find(&[""]), None);
    }
}
