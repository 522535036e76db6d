//! The tree against what it promises, with numbers for state.

use proptest::prelude::*;

use super::super::item::{Disk, Item, Payload, Tier};
use super::{Part, ROOT, Stale, Tree};

/// State of so many bytes.
#[derive(Debug)]
struct Bytes(u64);

impl Payload for Bytes {
    fn bytes(&self) -> u64 {
        self.0
    }
}

type Numbers = Tree<Bytes, Bytes>;

/// Adds `tokens` in pieces of at most `piece`, with a checkpoint at the end.
fn insert(tree: &mut Numbers, tokens: &[u32], piece: usize) {
    let path = tree.path(tokens);
    let (mut last, mut at) = (path.last(), path.reach);
    while at < tokens.len() {
        let end = tokens.len().min(at + piece);
        let id = tree
            .add(last, at, &tokens[at..end])
            .expect("it is new there");
        let memory = Some(Bytes((end - at) as u64).into());
        tree.node_mut(id).expect("just added").keys.memory = memory;
        (last, at) = (id, end);
    }
    let stamp = tree.tick();
    if let Some(node) = tree.node_mut(last).filter(|_| last != ROOT) {
        let state = node.checkpoints.entry(tokens.len());
        state.or_insert_with(|| Item::empty(stamp)).memory = Some(Bytes(100).into());
    }
}

/// Puts one part on disk; false if there is none.
fn file(tree: &mut Numbers) -> bool {
    match tree.unfiled() {
        None => return false,
        Some(Part::Keys(id)) => tree.node_mut(id).expect("is there").keys.disk = Disk::Filed(3),
        Some(Part::Checkpoint(id, at)) => {
            let node = tree.node_mut(id).expect("is there");
            node.checkpoints.get_mut(&at).expect("is there").disk = Disk::Filed(5);
        }
    }
    true
}

/// The files that ought to exist.
fn filed(tree: &Numbers) -> Vec<Stale> {
    tree.iter()
        .flat_map(|(_, node)| super::files(node))
        .collect()
}

fn check(tree: &Numbers) {
    for (id, node) in tree.iter() {
        let parent = tree.node(node.parent).expect("a node's parent is there");
        assert!((parent.start..=parent.end()).contains(&node.start) && !node.tokens.is_empty());
        assert_eq!(
            parent.children.get(&(node.start, node.tokens[0])),
            Some(&id)
        );
        assert!(node.keys.is_somewhere(), "a node without keys is of no use");
        let above = node.parent == ROOT || parent.keys.is_in(Tier::Disk);
        assert!(
            above || !node.keys.is_in(Tier::Disk),
            "a file that nothing leads to"
        );
        for (at, state) in &node.checkpoints {
            assert!((node.start + 1..=node.end()).contains(at) && state.is_somewhere());
            assert!(node.keys.is_in(Tier::Disk) || !state.is_in(Tier::Disk));
        }
    }
}

/// What a path says is in the tree.
fn tokens_of(tree: &Numbers, tokens: &[u32]) -> Vec<u32> {
    let path = tree.path(tokens);
    let mut found = Vec::new();
    for id in path.nodes {
        let node = tree.node(id).expect("on the path");
        found.truncate(node.start);
        assert_eq!(found.len(), node.start);
        found.extend(&node.tokens);
    }
    found.truncate(path.reach);
    found
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_was_added_is_found(
        all in prop::collection::vec(prop::collection::vec(0_u32..3, 1..24), 1..24),
        asked in prop::collection::vec(0_u32..3, 0..30),
        piece in 1_usize..8,
    ) {
        let mut tree = Numbers::new(1);
        for tokens in &all {
            insert(&mut tree, tokens, piece);
            check(&tree);
        }
        for tokens in all.iter().chain([&asked]) {
            let reach = all.iter().map(|other| common(other, tokens)).max().unwrap_or(0);
            prop_assert_eq!(tree.path(tokens).reach, reach);
            prop_assert_eq!(tokens_of(&tree, tokens), &tokens[..reach]);
            let whole = all.iter().filter(|other| tokens.starts_with(other));
            let expected = whole.map(Vec::len).max();
            let checkpoint = tree.checkpoint(&tree.path(tokens));
            prop_assert_eq!(checkpoint.map(|(_, at)| at), expected);
        }
    }

    #[test]
    fn whatever_goes_leaves_a_whole_tree(
        steps in prop::collection::vec((0_u8..8, prop::collection::vec(0_u32..3, 1..20)), 1..60),
        piece in 1_usize..8,
    ) {
        let mut tree = Numbers::new(1);
        let mut files: Vec<Stale> = Vec::new();
        for (step, tokens) in steps {
            let mut stale = Vec::new();
            match step {
                0..4 => insert(&mut tree, &tokens, piece),
                4 | 5 => _ = file(&mut tree),
                _ => {
                    let tier = [Tier::Memory, Tier::Disk][usize::from(step % 2)];
                    if let Some(part) = tree.oldest(tier) {
                        let before = tree.bytes(tier);
                        stale = tree.let_go(part, tier);
                        prop_assert!(tree.bytes(tier) < before);
                    }
                }
            }
            check(&tree);
            prop_assert_eq!(tokens_of(&tree, &tokens), &tokens[..tree.path(&tokens).reach]);
            for gone in &stale {
                prop_assert!(files.contains(gone), "{:?} was never filed", gone);
            }
            files.retain(|file| !stale.contains(file));
            for new in filed(&tree) {
                if !files.contains(&new) {
                    files.push(new);
                }
            }
            let mut expected = filed(&tree);
            expected.sort_unstable();
            files.sort_unstable();
            prop_assert_eq!(&files, &expected, "files and tree are one");
        }
        for tier in [Tier::Memory, Tier::Disk] {
            while let Some(part) = tree.oldest(tier) {
                tree.let_go(part, tier);
                check(&tree);
            }
            prop_assert_eq!(tree.bytes(tier), 0);
        }
        prop_assert_eq!(tree.iter().count(), 0);
    }
}

#[test]
fn the_least_recently_used_end_goes_first() {
    let mut tree = Numbers::new(1);
    insert(&mut tree, &[1, 2, 3, 4], 2);
    insert(&mut tree, &[1, 2, 5, 6], 2);
    insert(&mut tree, &[1, 2, 3, 4, 7], 2);
    // The second is the oldest end; the checkpoint within the others is older still.
    let first = tree.oldest(Tier::Memory).expect("there is one");
    assert!(matches!(first, Part::Checkpoint(_, 4)), "{first:?}");
    tree.let_go(first, Tier::Memory);
    tree.let_go(
        tree.oldest(Tier::Memory).expect("there is one"),
        Tier::Memory,
    );
    assert_eq!(tree.path(&[1, 2, 5, 6]).reach, 2);
    assert_eq!(tree.path(&[1, 2, 3, 4, 7]).reach, 5);
}
